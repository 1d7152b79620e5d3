# SPDX-License-Identifier: Apache-2.0
"""The options of a pre-training run: what each means, where its value comes from, and how a run keeps them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spanbert_ext.files.disk import write_synced
from spanbert_ext.pretrain.settings.defaults import fill, layers
from spanbert_ext.pretrain.settings.option_checks import (
    OptionError,
    check_given,
    check_types,
    check_values,
    flag,
)
from spanbert_ext.pretrain.settings.recipes import RECIPES
from spanbert_ext.pretrain.settings.sizes import MODELS

# May differ between a run and its resumption: they change no number but by rounding, or where a batch's loss is not
# usable.
RESUMABLE = frozenset(
    {
        "output",
        "resume",
        "overwrite",
        "workers",
        "save_steps",
        "cache_dir",
        "samples",
        "progress",
        "report_to",
        "on_bad_loss",
        "impl",
    }
)
# Names of what may have been moved since: a run goes on with what its digests know.
MOVABLE = frozenset({"corpus", "tokenizer", "model"})
_AT_MOST_A_TENTH = (
    "warmup_steps",
    "eval_steps",
    "logging_steps",
)  # of the steps: a short run keeps its shape


@dataclass
class Options:
    """One run. `resolve` fills in values of None: an option that is given comes first, then the schedule of the demo's
    size, the recipe, the defaults for one's own text, and `PLAIN`. A run whose length is given in `epochs` or
    `max_tokens` gets its steps by `with_steps` when its text is known. `bf16` None: where the hardware is faster."""

    corpus: list[str] = field(default_factory=list)
    document_separator: str | None = None  # a line that ends a document, in the place of a blank one
    text_field: str = "text"  # of JSON lines, Parquet and datasets
    held_out: float | None = None
    rows: str | None = None  # "blocks", "google-pairs" or "spanbert-pairs"
    block_size: int | None = None
    short_rows: float | None = None  # share of documents and passes whose pairs have a random shorter length
    short_phase: float | None = None  # share of the steps, the first ones, on rows of short_block_size
    short_block_size: int | None = None
    cache_dir: str | None = None
    tokenizer: str | None = None
    vocab_size: int | None = None
    unused_ids: int | None = None  # reserved [unusedN] of a trained vocabulary
    recipe: str | None = None
    model: str = "demo"
    nsp: bool | None = None
    sbo: bool | None = None
    masking: str | None = None
    candidate_share: float | None = None  # of the draws that mask an entity or a noun phrase
    dupe_factor: int | None = None  # how many static masks a row has; 0: fresh ones in every epoch
    ratio: float | None = None
    epochs: float | None = None
    max_steps: int | None = None
    max_tokens: int | None = None
    batch_size: int | None = None
    tokens_per_batch: int | None = (
        None  # of an update, in the place of batch_size * gradient_accumulation rows
    )
    gradient_accumulation: int | None = None
    learning_rate: float | None = None
    warmup_steps: int | None = None
    warmup_ratio: float | None = None
    weight_decay: float | None = None
    decay_all: bool | None = None  # biases and norms too
    adam_beta2: float | None = None
    adam_epsilon: float | None = None
    adam_bias_correction: bool | None = None
    max_grad_norm: float | None = None
    dropout: float | None = None
    bf16: bool | None = None  # None: where the hardware is faster with it
    on_bad_loss: str = "stop"  # or "skip"
    impl: str = "fused"  # or "reference"
    seed: int = 0
    workers: int = 0
    device: str = "auto"
    output: str = "spanbert-out"
    overwrite: bool = False
    resume: bool = False
    eval_steps: int | None = None
    save_steps: int | None = None
    logging_steps: int | None = None
    report_to: list[str] = field(default_factory=lambda: ["tensorboard"])
    samples: int = 12
    progress: bool = True

    def resolve(self) -> Options:
        """A copy of the user's options with every value filled in that does not depend on the text, and checked.
        Raises `OptionError`."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        check_types(given, Options)
        check_given(given)
        if self.recipe is not None and self.recipe not in RECIPES:
            raise OptionError(f"--recipe is {self.recipe!r}, expected one of {', '.join(RECIPES)} (or list)")
        values = fill(given, layers(self.model, self.recipe))
        values |= {name: None for name in _AT_MOST_A_TENTH if name not in given}
        if values["short_block_size"] >= values["block_size"] and "short_phase" not in given:
            values["short_phase"] = 0.0  # rows are short anyway
        if "batch_size" not in values:  # rows in the place of tokens, for evaluation
            whole = max(1, values["gradient_accumulation"] * values["block_size"])
            values["batch_size"] = max(1, values["tokens_per_batch"] // whole)
        full = Options(**values)
        check_values(full)
        return full if full.max_steps is None else full.with_steps(full.max_steps)

    def with_steps(self, max_steps: int) -> Options:
        """A copy of resolved options that takes `max_steps` steps, with what is given in shares of them, or left out,
        filled in. Raises `OptionError`."""
        base = fill({}, layers(self.model, self.recipe))
        full = dataclasses.replace(self, max_steps=max_steps)
        if full.warmup_steps is None and full.warmup_ratio is not None:
            full.warmup_steps = round(full.warmup_ratio * max_steps)
        for name in _AT_MOST_A_TENTH:
            if getattr(full, name) is None:
                setattr(full, name, max(1, min(base[name], max_steps // 10)))
        if full.save_steps is None:
            full.save_steps = full.eval_steps
        check_values(full)
        return full

    @property
    def starts_fresh(self) -> bool:
        """Whether `model` is a size, whose weights are random at first."""
        return self.model in MODELS

    @property
    def pair_passes(self) -> int:
        """Passes over the text that each made pairs of their own, which an epoch reads: 1 of blocks and of pairs with
        fresh masks."""
        return max(1, self.dupe_factor) if self.rows != "blocks" else 1

    @property
    def short_steps(self) -> int:
        """The first steps, which are on rows of `short_block_size`; never all of the `max_steps`."""
        return min(round(self.short_phase * self.max_steps), self.max_steps - 1)

    @property
    def seed_of_32_bits(self) -> int:
        """For generators that take no more; the seed itself below 2**32."""
        return (self.seed ^ (self.seed >> 32)) & 0xFFFFFFFF


def save_options(options: Options, path: Path, **facts: Any) -> None:
    """Writes what `load_options` reads, whole at any time; `facts` go along (the corpus' fingerprint)."""
    write_synced(json.dumps({"options": dataclasses.asdict(options), **facts}, indent=2) + "\n", path)


def load_options(path: Path, given: dict[str, Any]) -> tuple[Options, dict[str, Any]]:
    """The options to resume the run that wrote `path`, with those of `given` that may change, and the facts.

    Those in `MOVABLE` may have another name: whoever reads what they name has to check it. Raises `OptionError` for a
    file that is not of this version's runs, or for an option in `given` that would make it another run.
    """
    try:
        facts = json.loads(path.read_text())
        if isinstance(facts, dict) and facts.get("deleted"):
            raise OptionError(
                "--overwrite was deleting the run that it was of when it was stopped, and the new one had not begun:"
                " give that command again"
            )
        saved = facts.pop("options")
        names = {field.name for field in dataclasses.fields(Options)}
        if saved.keys() - names:
            raise OptionError(f"options {', '.join(sorted(saved.keys() - names))} are not of this version")
        check_types(saved, Options)
        if names - saved.keys():
            raise OptionError(f"options {', '.join(sorted(names - saved.keys()))} are missing")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, (OSError, OptionError)) else repr(error)
        raise OptionError(f"--resume: cannot read {path}: {reason}") from error
    moved = {name for name in MOVABLE & given.keys() if _may_move(name, saved[name], given[name])}
    for name, value in given.items():
        if name not in RESUMABLE | moved and saved.get(name) != value:
            raise OptionError(
                f"{flag(name)} is {value!r} but the run in {path.parent} was started with"
                f" {saved.get(name)!r}: leave the option out, or start a new run in another folder"
            )
    kept = {name: value for name, value in given.items() if name in RESUMABLE | moved}
    here = {"output": str(path.parent), "resume": True, "overwrite": False}  # the folder may have been moved
    options = Options(**{**saved, **here, **kept})
    check_values(options)
    return options, facts


def _may_move(name: str, saved: Any, value: Any) -> bool:
    """Whether another name can mean the same thing: not what a run made itself, nor a size of a fresh model."""
    return bool(saved) and (name != "model" or (saved not in MODELS and value not in MODELS))
