# SPDX-License-Identifier: Apache-2.0
"""Options that were given and that nothing reads are named in the plan; those that nobody gave are not."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("transformers")

from test_plan import plan_of

from spanbert_ext.pretrain.run.without_effect import text_forms, without_effect
from spanbert_ext.pretrain.settings.options import Options
from spanbert_ext.pretrain.settings.recipes import RECIPES

TEXT, FIELDS, NONE = frozenset({"text"}), frozenset({"fields"}), frozenset()


def notes(forms=TEXT, **given) -> list[str]:
    options = Options(**{"model": "tiny", "max_steps": 10, **given}).resolve()
    return without_effect(options, forms)


def test_the_forms_of_a_text(tmp_path):
    for name in ("a.txt", "a.jsonl.gz", "a.parquet", "notes.MD"):
        (tmp_path / name).touch()

    def of(*names: str) -> frozenset[str]:
        return text_forms(Options(corpus=[str(tmp_path / name) for name in names]))

    assert of("a.txt") == of("notes.MD") == TEXT and of("a.jsonl.gz") == of("a.parquet") == FIELDS
    assert (
        of("*.txt", "a.parquet") == TEXT | FIELDS
        and text_forms(Options(corpus=["dataset:some/text"])) == FIELDS
    )
    assert text_forms(Options()) == NONE
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    (prepared / "manifest.json").write_text('{"shards": []}')
    assert text_forms(Options(corpus=[str(prepared)])) == NONE


@pytest.mark.parametrize("recipe", [None, *RECIPES])
@pytest.mark.parametrize("model", ["demo", "base", "bert-base-cased"])
def test_nothing_is_said_of_what_nobody_gave(model, recipe):
    for forms in (TEXT, FIELDS, NONE):
        assert notes(forms, model=model, recipe=recipe, tokenizer="bert-base-cased") == []


@pytest.mark.parametrize(
    ("forms", "given", "expected"),
    [
        (
            TEXT,
            {"tokenizer": "bert-base-cased", "vocab_size": 500, "unused_ids": 7},
            "--vocab-size 500 and --unused-ids 7 have no effect: no vocabulary is trained.",
        ),
        (
            TEXT,
            {"model": "bert-base-cased", "vocab_size": 500},
            "--vocab-size 500 has no effect: no vocabulary is trained.",
        ),
        (
            NONE,
            {"document_separator": "# #"},
            "--document-separator # # has no effect: no text file is read.",
        ),
        (
            FIELDS,
            {"document_separator": "# #"},
            "--document-separator # # has no effect: no text file is read.",
        ),
        (
            TEXT,
            {"text_field": "body"},
            "--text-field body has no effect: no JSON lines, Parquet file or dataset is read.",
        ),
        (TEXT, {"candidate_share": 0.8}, "--candidate-share 0.8 has no effect: --masking is spans."),
        (
            TEXT,
            {"short_block_size": 64},
            "--short-block-size 64 has no effect: no step is on short rows (--short-phase is 0).",
        ),
        (
            TEXT,
            {"model": "bert-base-cased", "dropout": 0.3},
            "--dropout 0.3 has no effect: --model bert-base-cased keeps its own.",
        ),
    ],
)
def test_what_was_given_for_nothing_is_named(forms, given, expected):
    assert notes(forms, **given) == [expected]


def test_what_has_an_effect_is_not():
    assert not notes(TEXT | FIELDS, vocab_size=500, unused_ids=7, document_separator="# #", text_field="body")
    assert not notes(masking="entities", candidate_share=0.8, dropout=0.3)
    assert not notes(short_phase=0.5, short_block_size=64)


def test_a_plan_has_notes_and_advises_a_separator_for_text_files_alone():
    plan = plan_of(length=115, text_field="body")
    unread, short = plan.warnings()
    assert unread.startswith("--text-field body has no effect") and "--document-separator" in short
    assert "--text-field body has no effect" in " ".join(plan.text().split())
    for forms in (FIELDS, NONE):
        (short,) = dataclasses.replace(plan_of(length=115), forms=forms).warnings()
        assert "--document-separator" not in short and "on average. --block-size 128 says" in short
