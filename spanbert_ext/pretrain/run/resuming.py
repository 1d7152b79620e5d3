# SPDX-License-Identifier: Apache-2.0
"""Whether a run that goes on is the one that began: its options, its text, its tokenizer, the model it started from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from spanbert_ext.files.commands import place
from spanbert_ext.files.disk import sha256_of
from spanbert_ext.files.paths import given_path
from spanbert_ext.pretrain.rows.tokenizer import tokenizer_sha256
from spanbert_ext.pretrain.run.checkpoints import RUN_FILE, TOKENIZER, RunError, add_to_run_file
from spanbert_ext.pretrain.run.data import RunData, reads_prepared, trains_tokenizer
from spanbert_ext.pretrain.settings.option_checks import flag
from spanbert_ext.pretrain.settings.options import MOVABLE, RESUMABLE, Options, load_options
from spanbert_ext.pretrain.text.corpus import find_sources
from spanbert_ext.pretrain.text.corpus_names import DATASET, DatasetName
from spanbert_ext.pretrain.text.text_files import CorpusError

_BEGIN_ANEW = "put it back, or begin a new run in another folder"


def facts_of(options: Options, data: RunData) -> dict[str, Any]:
    """What run.json keeps of a run that begins, for `check_same`. data: what it reads."""
    return {
        "corpus_digest": data.facts["corpus_digest"],
        "tokenizer_sha256": tokenizer_sha256(data.tokenizer),
        "prepared": reads_prepared(options),
        "model_digest": _model_digest(options),
    }


def check_begun(options: Options, folder: Path) -> dict[str, Any]:
    """The facts in run.json. Raises `RunError` when it is not of the run that `options` were read from, and when what
    it reads is not where it was."""
    saved, begun = load_options(folder / RUN_FILE, {})
    for field in dataclasses.fields(Options):
        if field.name in RESUMABLE | MOVABLE:
            continue
        if getattr(saved, field.name) != getattr(options, field.name):
            raise RunError(f"the run in {folder} was replaced by another one: give the command again")
    for name in ("corpus_digest", "tokenizer_sha256"):
        if name not in begun:
            raise RunError(
                f"--resume: {folder / RUN_FILE} has no {name}, so it is of another version; begin a new run in another"
                " folder"
            )
    for name in sorted(MOVABLE):
        if getattr(options, name) != getattr(saved, name):
            continue  # named anew
        missing = _missing(name, options)
        if missing is not None:
            raise RunError(
                f"--resume: {missing}. The run in {folder} began with it: where it was moved, give {flag(name)}"
                " NEW_PLACE beside --resume"
            )
    return begun


def _missing(name: str, options: Options) -> str | None:
    """Why nothing is found where the option points to; None where something is, or only its reader can tell."""
    value = getattr(options, name)
    if name != "corpus":
        gone = value is not None and os.path.isabs(value) and not os.path.exists(value)
        return f"{name} {value!r} does not exist" if gone else None
    for one in value:
        path = DatasetName.parse(one).path if one.startswith(DATASET) else ""
        if os.path.isabs(path) and not os.path.exists(path):
            return f"corpus {one!r} does not exist"
    try:
        if not reads_prepared(options):
            find_sources(value)
    except CorpusError as error:
        return str(error)
    return None


def check_tokenizer(
    folder: Path, options: Options, tokenizer: PreTrainedTokenizerBase, begun: dict[str, Any]
) -> None:
    """As `check_same`, of the tokenizer."""
    was, now = begun["tokenizer_sha256"], tokenizer_sha256(tokenizer)
    if was != now:
        saved, _ = load_options(folder / RUN_FILE, {})
        raise RunError(_differs(folder, "tokenizer", options, saved, was, now))


def check_same(folder: Path, options: Options, data: RunData, begun: dict[str, Any], processes: int) -> None:
    """Raises `RunError` when a resumed run would not be the one that began in `folder`.

    begun: the facts in its run.json, of `check_begun`. An older version kept no `prepared` and no `model_digest`."""
    saved, _ = load_options(folder / RUN_FILE, {})
    facts = facts_of(options, data)
    if begun["corpus_digest"] != facts["corpus_digest"]:
        raise RunError(
            _differs(folder, "corpus", options, saved, begun["corpus_digest"], facts["corpus_digest"])
        )
    check_tokenizer(folder, options, data.tokenizer, begun)
    if begun.get("prepared", facts["prepared"]) != facts["prepared"]:
        forms = {True: "a prepared corpus", False: "text"}
        raise RunError(
            f"--corpus is {forms[facts['prepared']]} and the run in {folder} began with {forms[begun['prepared']]},"
            " of which other passages are held out: give what it began with"
        )
    if options.model != saved.model and begun.get("model_digest") is None:
        raise RunError(
            f"--model is {options.model!r} and the run in {folder} began with {saved.model!r}, of which it keeps no"
            " digest, since it was no folder: leave the option out"
        )
    if begun.get("model_digest") is not None and begun["model_digest"] != facts["model_digest"]:
        raise RunError(
            _differs(folder, "model", options, saved, begun["model_digest"], facts["model_digest"])
        )
    number = begun.get("processes", 1)
    if number != processes and options.tokens_per_batch is None:  # rows are counted by process
        raise RunError(
            f"the run in {folder} began with {number} processes and this one has {processes}: resume it with as"
            f" many (torchrun --nproc-per-node {number})"
        )


def _differs(folder: Path, what: str, options: Options, saved: Options, was: Any, now: Any) -> str:
    there, here = getattr(saved, what), getattr(options, what)
    said = f"the {what} is not the one that the run in {folder} began with: "
    path = folder / TOKENIZER
    if what == "tokenizer" and trains_tokenizer(options):
        if not path.is_dir():
            return (
                f"{said}trained again on the same text it came out different, perhaps by another version of the"
                f" tokenizers library; put {path} back from a copy, or begin a new run in another folder"
            )
        return f"{said}delete the folder (rm -r {place(path)}), and --resume trains the same one again"
    names = {"corpus": "the built-in text", "tokenizer": f"that of {options.model}"}
    there, here = (_shown(value) or names.get(what, "") for value in (there, here))
    return f"{said}{here} has the digest {now}, {there} had {was}; {_BEGIN_ANEW}"


def _shown(value: str | list[str] | None) -> str:
    return " ".join(value) if isinstance(value, list) else value or ""


def remember_moved(folder: Path, options: Options) -> None:
    """run.json names the places that were given anew, after `check_same`."""
    content = json.loads((folder / RUN_FILE).read_text())
    now = {name: getattr(options, name) for name in sorted(MOVABLE)}
    if content["options"] | now != content["options"]:
        add_to_run_file(folder, options=content["options"] | now)


def _model_digest(options: Options) -> str | None:
    """Of the configuration and the weights in the folder that a run starts from; None where it starts from none."""
    folder = given_path(options.model)
    if options.starts_fresh or not os.path.isdir(folder):
        return None
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.iterdir()):
        if path.name == "config.json" or path.suffix in (".safetensors", ".bin"):
            digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()
