"""The options of a pre-training run, the models and recipes they start from, and their checks."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class OptionError(ValueError):
    """An option's value cannot be used; the message names the option."""


@dataclass(frozen=True)
class Recipe:
    """What depends on the size of the undertaking. An option that the user does not give takes its value
    from here."""

    block_size: int
    batch_size: int
    gradient_accumulation: int
    max_steps: int
    learning_rate: float
    warmup_steps: int
    adam_beta2: float
    dropout: float
    vocab_size: int
    held_out: float
    eval_steps: int
    logging_steps: int


# Joshi et al. 2020, section 4.2 and appendix A: 512 tokens, batch 256 (here 32 times 8), 2.4 M steps, peak
# 1e-4.
PAPER = Recipe(
    block_size=512,
    batch_size=32,
    gradient_accumulation=8,
    max_steps=2_400_000,
    learning_rate=1e-4,
    warmup_steps=10_000,
    adam_beta2=0.999,
    dropout=0.1,
    vocab_size=28_996,
    held_out=0.01,
    eval_steps=10_000,
    logging_steps=100,
)
# Minutes on two CPU cores: many small steps at a high rate, no dropout, because nothing this small overfits
# in them. For the same reason one layer: in equal time it learns more than two (held-out loss of both heads).
DEMO = Recipe(
    block_size=128,
    batch_size=16,
    gradient_accumulation=1,
    max_steps=4_000,
    learning_rate=3e-3,
    warmup_steps=100,
    adam_beta2=0.98,
    dropout=0.0,
    vocab_size=4_000,
    held_out=0.1,
    eval_steps=400,
    logging_steps=100,
)

MASKING_SCHEMES = {"spans": "geometric", "words": "words", "tokens": "tokens"}
# May differ between a run and its resumption: they change no number.
RESUMABLE = frozenset(
    {"output", "resume", "overwrite", "workers", "save_steps", "cache_dir", "samples", "progress"}
)


# What no recipe says.
PLAIN: dict[str, Any] = {
    "rows": "blocks",
    "short_rows": 0.0,
    "short_phase": 0.0,
    "unused_ids": 0,
    "nsp": False,
    "sbo": True,
    "masking": "spans",
    "dupe_factor": 0,
    "weight_decay": 0.1,
    "decay_all": False,
    "adam_epsilon": 1e-8,
    "adam_bias_correction": True,
    "bf16": False,
}


@dataclass
class Options:
    """One run. A value of None is filled in from the recipe of `model` by `resolve`."""

    corpus: list[str] = field(default_factory=list)
    document_separator: str | None = None  # a line that ends a document, in the place of a blank one
    text_field: str = "text"  # of JSON lines, Parquet and datasets
    held_out: float | None = None
    rows: str | None = None  # "blocks", "google-pairs" or "spanbert-pairs"
    block_size: int | None = None
    short_rows: float | None = None  # share of documents and passes whose pairs have a random shorter length
    short_phase: float | None = None  # share of the steps, the first ones, on rows of short_block_size
    short_block_size: int = 128
    cache_dir: str | None = None
    tokenizer: str | None = None
    vocab_size: int | None = None
    unused_ids: int | None = None  # reserved [unusedN] of a trained vocabulary
    recipe: str | None = None
    model: str = "demo"
    nsp: bool | None = None
    sbo: bool | None = None
    masking: str | None = None
    candidate_share: float = 0.5  # of the draws that mask an entity or a noun phrase
    dupe_factor: int | None = None  # how many static masks a row has; 0: fresh ones in every epoch
    ratio: float = 0.15
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
    max_grad_norm: float = 1.0
    dropout: float | None = None
    bf16: bool | None = None  # None: where the hardware is faster with it
    on_bad_loss: str = "stop"  # or "skip"
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
        """A copy with every value filled in and checked. Raises `OptionError`."""
        recipe = dataclasses.asdict(DEMO if self.model == "demo" else PAPER)
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        full = dataclasses.replace(self, **{**PLAIN, **recipe, **given})
        for name in ("warmup_steps", "eval_steps", "logging_steps"):  # a short run keeps the schedule's shape
            if getattr(self, name) is None:
                setattr(full, name, max(1, min(recipe[name], full.max_steps // 10)))
        if full.save_steps is None:
            full.save_steps = full.eval_steps
        full._check()
        return full

    def _check(self) -> None:
        at_least = {
            "block_size": 8,
            "vocab_size": 100,
            "max_steps": 1,
            "batch_size": 1,
            "gradient_accumulation": 1,
            "warmup_steps": 0,
            "workers": 0,
            "eval_steps": 1,
            "save_steps": 1,
            "logging_steps": 1,
            "samples": 0,
            "seed": 0,
        }
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise OptionError(
                    f"{flag(name)} is {getattr(self, name)}, expected an integer of at least {least}"
                )
        open_intervals = {
            "held_out": (0, 1),
            "learning_rate": (0, math.inf),
            "adam_beta2": (0, 1),
            "adam_epsilon": (0, 1),
            "max_grad_norm": (0, math.inf),
        }
        for name, (low, high) in open_intervals.items():
            if not low < getattr(self, name) < high:
                raise OptionError(
                    f"{flag(name)} is {getattr(self, name)}, expected a number in ({low}, {high})"
                )
        for name in ("dropout", "weight_decay", "ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{flag(name)} is {getattr(self, name)}, expected a number in [0, 1]")
        if self.ratio == 0:
            raise OptionError("--ratio is 0: nothing would be masked, so nothing learned")
        if self.masking not in MASKING_SCHEMES:
            raise OptionError(f"--masking is {self.masking!r}, expected one of {', '.join(MASKING_SCHEMES)}")
        if self.resume and self.overwrite:
            raise OptionError(
                "--resume continues the run in the output folder, --overwrite deletes it: give one"
            )


def flag(name: str) -> str:
    """The command-line spelling of an option."""
    return "--no-sbo" if name == "sbo" else f"--{name.replace('_', '-')}"


def save_options(options: Options, path: Path, **facts: Any) -> None:
    """Writes what `load_options` reads; `facts` go along (the corpus' fingerprint)."""
    path.write_text(json.dumps({"options": dataclasses.asdict(options), **facts}, indent=2) + "\n")


def load_options(path: Path, given: dict[str, Any]) -> tuple[Options, dict[str, Any]]:
    """The options to resume the run that wrote `path`, with those of `given` that may change, and the facts.

    Raises `OptionError` for an option in `given` that would make it another run.
    """
    try:
        facts = json.loads(path.read_text())
        saved = facts.pop("options")
    except (OSError, ValueError, KeyError) as error:
        raise OptionError(f"--resume: cannot read {path}: {error!r}") from error
    for name, value in given.items():
        if name not in RESUMABLE and saved.get(name) != value:
            raise OptionError(
                f"{flag(name)} is {value!r} but the run in {path.parent} was started with"
                f" {saved.get(name)!r}: leave the option out, or start a new run in another folder"
            )
    kept = {name: value for name, value in given.items() if name in RESUMABLE}
    here = {"output": str(path.parent), "resume": True, "overwrite": False}  # the folder may have been moved
    options = Options(**{**saved, **here, **kept})
    options._check()
    return options, facts
