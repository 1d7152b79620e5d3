# SPDX-License-Identifier: Apache-2.0
"""What values options may have. Every message names the option, what it was and what is expected."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spanbert_ext.files.paths import empty_name
from spanbert_ext.pretrain.settings.defaults import ALTERNATIVES
from spanbert_ext.pretrain.settings.recipes import RECIPES

if TYPE_CHECKING:
    from spanbert_ext.pretrain.settings.options import Options

# Smallest and largest. Upper limits keep what would fail without a word about the option out of the libraries.
INTEGERS = {
    "block_size": (8, 2**20),
    "short_block_size": (8, 2**20),
    "vocab_size": (100, 2**22),
    "unused_ids": (0, 2**20),
    "dupe_factor": (0, 1_000_000),
    "max_steps": (1, 10**12),
    "max_tokens": (1, 10**18),
    "batch_size": (1, 1_000_000),
    "tokens_per_batch": (8, 2**40),
    "gradient_accumulation": (1, 1_000_000),
    "warmup_steps": (0, 10**12),
    "workers": (0, 4096),
    "eval_steps": (1, 10**12),
    "save_steps": (1, 10**12),
    "logging_steps": (1, 10**12),
    "samples": (0, 10_000),
    "seed": (0, 2**63 - 1),
}
# Open intervals.
NUMBERS = {
    "held_out": (0, 1),
    "epochs": (0, math.inf),
    "learning_rate": (0, math.inf),
    "adam_beta2": (0, 1),
    "adam_epsilon": (0, 1),
    "max_grad_norm": (0, math.inf),
}
SHARES = ("dropout", "weight_decay", "ratio", "short_rows", "short_phase", "candidate_share", "warmup_ratio")
CHOICES = {
    "rows": ("blocks", "google-pairs", "spanbert-pairs"),
    "masking": ("spans", "words", "tokens", "entities", "noun-phrases"),
    "on_bad_loss": ("stop", "skip"),
    "impl": ("fused", "reference"),
    "device": ("auto", "cpu", "cuda"),
    "recipe": tuple(RECIPES),
}


class OptionError(ValueError):
    """An option's value cannot be used; the message names the option."""


def flag(name: str, value: Any = None) -> str:
    """The command-line spelling of an option; of a switch that is turned off `--no-...`."""
    return f"--{'no-' if value is False else ''}{name.replace('_', '-')}"


def check_given(given: Mapping[str, Any]) -> None:
    """Refuses two of the user's options that say the same thing. Raises `OptionError`."""
    for group in ALTERNATIVES:
        found = [f"{flag(name)} {given[name]}" for name in group if given.get(name) is not None]
        if len(found) > 1:
            raise OptionError(f"{' and '.join(found)} say the same thing in two ways: give one")


def check_types(values: Mapping[str, Any], options: type[Options]) -> None:
    """Refuses a value of another type than its field's. Raises `OptionError`."""
    for name, hint in typing.get_type_hints(options).items():
        if name in values and not _fits(values[name], hint):
            raise OptionError(
                f"{flag(name)} is {values[name]!r}, expected {_name(hint)}, not {type(values[name]).__name__}"
            )


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_fits(value, member) for member in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        (member,) = typing.get_args(hint)
        return isinstance(value, list) and all(_fits(x, member) for x in value)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _name(hint: Any) -> str:
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    names = {int: "an integer", float: "a number", str: "a text", bool: "true or false", list[str]: "texts"}
    return " or ".join(names[member] for member in members if member in names)


def check_values(options: Options) -> None:
    """Every value alone, then those that must fit each other. Raises `OptionError`."""
    values = dataclasses.asdict(options)
    check_types(values, type(options))
    for name, (least, most) in INTEGERS.items():
        value = values[name]
        if value is not None and not least <= value <= most:
            raise OptionError(f"{flag(name)} is {value}, expected an integer from {least} to {most:,}")
    for name, (low, high) in NUMBERS.items():
        value = values[name]
        if value is not None and not low < value < high:
            above = f"above {low}" if high == math.inf else f"between {low} and {high}, both excluded"
            raise OptionError(f"{flag(name)} is {value}, expected a finite number {above}")
    for name in SHARES:
        if values[name] is not None and not 0 <= values[name] <= 1:
            raise OptionError(f"{flag(name)} is {values[name]}, expected a number from 0 to 1")
    for name, choices in CHOICES.items():
        if values[name] is not None and values[name] not in choices:
            raise OptionError(f"{flag(name)} is {values[name]!r}, expected one of {', '.join(choices)}")
    _check_texts(options)
    _check_together(options)


def _check_texts(options: Options) -> None:
    names = ("text_field", "model", "output", "tokenizer", "cache_dir")
    if wrong := empty_name({flag(name): getattr(options, name) for name in names}):
        raise OptionError(wrong)
    separator = options.document_separator
    if separator is not None and (not separator.strip() or len(separator.splitlines()) != 1):
        raise OptionError(
            f"--document-separator is {separator!r}, expected one line of text that ends a document"
            " (leave it out where a blank line does)"
        )


def _check_together(options: Options) -> None:
    if options.ratio == 0:
        raise OptionError("--ratio is 0: nothing would be masked, so nothing learned")
    if options.resume and options.overwrite:
        raise OptionError("--resume continues the run in the output folder, --overwrite deletes it: give one")
    if options.rows == "blocks" and options.nsp:
        raise OptionError(
            "--nsp predicts whether the second half of a pair follows the first, but --rows is blocks:"
            " choose --rows google-pairs or spanbert-pairs, or --no-nsp"
        )
    if options.rows == "blocks" and options.short_rows:
        raise OptionError(
            f"--short-rows is {options.short_rows} but --rows is blocks, expected 0: only pairs have a random"
            " shorter length"
        )
    if options.short_phase == 1:
        raise OptionError("--short-phase is 1, expected less: no step would be left for --block-size")
    if options.short_phase and options.short_block_size >= options.block_size:
        raise OptionError(
            f"--short-block-size is {options.short_block_size}, expected less than --block-size"
            f" {options.block_size}, because --short-phase is {options.short_phase}"
        )
    if options.tokens_per_batch is not None and options.tokens_per_batch < options.block_size:
        raise OptionError(
            f"--tokens-per-batch is {options.tokens_per_batch}, expected at least --block-size"
            f" {options.block_size}: an update has one row or more"
        )
    if options.unused_ids + 5 >= options.vocab_size:
        raise OptionError(
            f"--unused-ids is {options.unused_ids}, expected less than --vocab-size {options.vocab_size} without"
            " the five special tokens"
        )
    if options.warmup_steps is not None and options.max_steps is not None:
        if options.warmup_steps > options.max_steps:
            raise OptionError(
                f"--warmup-steps is {options.warmup_steps}, expected at most the {options.max_steps} steps of the"
                " run: the rate would never reach --learning-rate"
            )
