# SPDX-License-Identifier: Apache-2.0
"""Options of a run that nothing reads, which the user may think that something does."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from spanbert_ext.pretrain.run.data import reads_prepared, trains_tokenizer
from spanbert_ext.pretrain.settings.defaults import fill, layers
from spanbert_ext.pretrain.settings.masking_options import CANDIDATES
from spanbert_ext.pretrain.settings.option_checks import flag
from spanbert_ext.pretrain.settings.options import Options
from spanbert_ext.pretrain.text.corpus import find_sources
from spanbert_ext.pretrain.text.corpus_names import DATASET, form_of

Form = Literal["text", "fields"]  # files that are text, and rows with the text in a field


def text_forms(options: Options) -> frozenset[Form]:
    """What a run finds its text in; nothing for the built-in one and for a prepared corpus. Raises `CorpusError`."""
    if not options.corpus or reads_prepared(options):
        return frozenset()
    sources = find_sources(options.corpus)
    return frozenset("fields" if _has_fields(source) else "text" for source in sources)


def _has_fields(source: str) -> bool:
    return source.startswith(DATASET) or form_of(source) in ("json", "parquet")


def without_effect(options: Options, forms: frozenset[Form]) -> list[str]:
    """A sentence for each reason why an option that was given does nothing.

    options: resolved ones, in which one that has the value that it has without being given is as if it were not.
    forms: of `text_forms`."""
    unread = {
        "no vocabulary is trained": () if trains_tokenizer(options) else ("vocab_size", "unused_ids"),
        "no text file is read": () if "text" in forms else ("document_separator",),
        "no JSON lines, Parquet file or dataset is read": () if "fields" in forms else ("text_field",),
        f"--masking is {options.masking}": () if options.masking in CANDIDATES else ("candidate_share",),
        "no step is on short rows (--short-phase is 0)": () if options.short_phase else ("short_block_size",),
        f"--model {options.model} keeps its own": () if options.starts_fresh else ("dropout",),
    }
    found = []
    for reason, names in unread.items():
        given = [f"{flag(name)} {getattr(options, name)}" for name in names if _is_given(options, name)]
        if given:
            found.append(f"{' and '.join(given)} {'have' if len(given) > 1 else 'has'} no effect: {reason}.")
    return found


def _is_given(options: Options, name: str) -> bool:
    return getattr(options, name) != _default(options, name)


def _default(options: Options, name: str) -> Any:
    values = fill({}, layers(options.model, options.recipe))
    plain = {field.name: field.default for field in dataclasses.fields(Options)}
    return values.get(name, plain[name])
