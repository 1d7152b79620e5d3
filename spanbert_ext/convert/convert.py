# SPDX-License-Identifier: Apache-2.0
"""One conversion: read, check, write whole, and say what was read, made and not there."""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from spanbert_ext.convert.checkpoint_file import CheckpointError
from spanbert_ext.convert.model_folders import Loaded
from spanbert_ext.convert.published_state import listed
from spanbert_ext.convert.source import load_source, local_path
from spanbert_ext.convert.vocabulary import check_size, has_vocabulary, load_vocabulary, tokens_of
from spanbert_ext.convert.whole_folder import check_output, whole_folder
from spanbert_ext.convert.write_fairseq import write_dictionary, write_fairseq
from spanbert_ext.convert.write_legacy import write_legacy, write_vocabulary
from spanbert_ext.files.disk import megabytes, size_of
from spanbert_ext.files.paths import empty_name, given_path
from spanbert_ext.models.model_card import card_text, write_card

FORMS = ("transformers", "fairseq", "legacy")
_SEED = 0  # of heads that the source does not have: the same source gives the same files
_WIDTH, _LABEL = 100, 10


@dataclass(frozen=True)
class ConvertOptions:
    source: str
    output: str
    to: str = "transformers"  # of FORMS
    vocab: str | None = None
    attention_heads: int | None = None
    with_args: bool = False
    dtype: str | None = None  # float32, float16
    overwrite: bool = False
    progress: bool = True

    def check(self) -> None:
        """Raises `CheckpointError`."""
        names = {"SOURCE": self.source, "--output": self.output, "--vocab": self.vocab}
        if wrong := empty_name(names, "the name of a file or a folder"):
            raise CheckpointError(wrong)
        for name, given in (("--with-args", self.with_args), ("--dtype", self.dtype)):
            if given and self.to != "fairseq":
                raise CheckpointError(f"{name} is for --to fairseq, but --to is {self.to}")
        if self.attention_heads is not None and self.attention_heads < 1:
            raise CheckpointError(f"--attention-heads is {self.attention_heads}, expected 1 or more")


def convert(options: ConvertOptions) -> str:
    """Converts, and returns what is to be said of it.

    Raises:
        CheckpointError: the source, an option or the output cannot be used; nothing was written.
        DiskError: the output cannot be written; nothing of it is there.
    """
    options.check()
    output = given_path(options.output)
    named = [given_path(name) for name in (options.source, options.vocab) if name is not None]
    check_output(output, options.overwrite, [path for path in named if os.path.exists(path)])
    path = local_path(options.source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        source = load_source(path, options.attention_heads, options.progress)
    tokenizer, its_source = _tokenizer(options, path, source.model)
    with whole_folder(output, options.overwrite) as folder:
        _write(options, source, tokenizer, folder)
        written = sorted(file.name for file in folder.iterdir())
        size = size_of(folder)
    return _summary(options, path, source, tokenizer, its_source, f"{', '.join(written)}; {megabytes(size)}")


def _tokenizer(options: ConvertOptions, path: Path, model: Any) -> tuple[PreTrainedTokenizerBase | None, str]:
    source = options.vocab or (str(path) if path.is_dir() and has_vocabulary(path) else None)
    if source is None:
        return None, ""
    tokenizer = load_vocabulary(source, model.config.max_position_embeddings)
    check_size(tokenizer, model.config.vocab_size, source)
    if options.to != "transformers":
        tokens_of(tokenizer)  # refused before anything is written
    return tokenizer, source


def _write(
    options: ConvertOptions, source: Loaded, tokenizer: PreTrainedTokenizerBase | None, folder: Path
) -> None:
    model = source.model
    if options.to == "transformers":
        model.save_pretrained(folder)
        made = {"training": "Converted from another form of checkpoint; not trained further."}
        write_card(folder, card_text(model, "converted-spanbert", made))  # the same bytes in any folder
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        return
    if options.to == "fairseq":
        write_fairseq(model, folder, options.with_args, getattr(torch, options.dtype or "float32"))
    else:
        write_legacy(model, folder, source.parts)
    if tokenizer is not None:
        tokens = tokens_of(tokenizer)
        write_vocabulary(tokens, folder)
        if options.to == "fairseq":
            write_dictionary(tokens, folder)


def _summary(
    options: ConvertOptions,
    path: Path,
    source: Loaded,
    tokenizer: PreTrainedTokenizerBase | None,
    its_source: str,
    written: str,
) -> str:
    config, sbo = source.model.config, source.model.config.span_pretraining
    count = sum(x.numel() for x in source.model.parameters()) / 1e6
    lines = [
        ("read", f"{path}: {source.what}, {' and '.join(source.dtypes)}"),
        (
            "model",
            f"{config.model_type}, {config.num_hidden_layers} layers of {config.hidden_size},"
            f" {config.num_attention_heads} attention heads, {config.max_position_embeddings} positions,"
            f" {config.vocab_size:,} tokens; {count:,.1f} M parameters",
        ),
        ("found", "encoder" + "".join(f", {_described(part, sbo)}" for part in source.parts)),
    ]
    lines += [("absent", text) for text in _absent(options, source)]
    if source.left_out:
        lines.append(("left out", f"{listed(source.left_out)}: the model has no place for them"))
    lines.append(("tokenizer", _about(tokenizer, its_source, options)))
    lines.append(("wrote", f"{options.output}: {_form(options)}: {written}"))
    return "\n".join(
        textwrap.fill(
            text,
            _WIDTH,
            initial_indent=f"{label:<{_LABEL}}",
            subsequent_indent=" " * _LABEL,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for label, text in lines
    )


def _described(part: str, sbo: dict[str, Any]) -> str:
    if part == "SBO head":
        return f"{part} ({sbo['position_slots']} position slots of {sbo['position_dim']})"
    return part


def _absent(options: ConvertOptions, source: Loaded) -> list[str]:
    if source.random and options.to == "legacy":
        return [f"{' and '.join(source.random)}: not written either"]
    if source.random:
        return [
            f"{' and '.join(source.random)}: initialised at random (seed {_SEED}), to be trained before"
            " anything is predicted with it"
        ]
    return []


def _about(tokenizer: PreTrainedTokenizerBase | None, its_source: str, options: ConvertOptions) -> str:
    if tokenizer is None:
        return "none: the source has no vocabulary; --vocab gives one (a vocab.txt, a folder, a hub name)"
    lowers = getattr(tokenizer, "do_lower_case", None)
    case = {True: "uncased", False: "cased (do_lower_case false)"}.get(lowers, "its case as it is")
    return f"{len(tokenizer):,} tokens of {its_source}, {case}"


def _form(options: ConvertOptions) -> str:
    if options.to == "fairseq":
        return "fairseq checkpoint" + (" with the arguments of a run" if options.with_args else "")
    return {"transformers": "transformers folder", "legacy": "folder for old programs"}[options.to]
