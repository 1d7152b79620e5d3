# SPDX-License-Identifier: Apache-2.0
"""A study as commands, and where each leaves what it finds."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.evidence.steps import Step
from support.evidence.studies import ALIKE, START, SYSTEMS, Evaluation, Study

ROUNDS = 2  # in which the cost of the systems is measured


def module(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name, *arguments)


PREPARE, PRETRAIN = "spanbert_ext.pretrain.prepare_cli", "spanbert_ext.pretrain.cli"
EVALUATE = "spanbert_ext.evaluate.evaluate_cli"


@dataclass(frozen=True)
class Plan:
    """The steps of a study in the folder `work`. Paths in commands are relative to it, so that it can be moved."""

    study: Study
    work: Path
    corpus: Sequence[str]
    data: Path
    seeds: int

    def stages(self) -> Iterator[list[Step]]:
        """Steps of one stage do not depend on each other."""
        yield from self._starts()
        yield self.trainings()
        yield [self.mask_laws(system, seed) for system, seed in self.checkpoints()]
        for evaluation in self.evaluations():
            yield [self.evaluation(evaluation)]
        for turn in range(ROUNDS):
            for system in list(SYSTEMS)[:: 1 if turn % 2 == 0 else -1]:  # no system is always the last
                yield [self.cost(system, turn)]

    def _starts(self) -> Iterator[list[Step]]:
        """The corpus, and the checkpoint to start from where it is not random."""
        study = self.study
        prepare = ("--corpus", *map(str, self.corpus), "--output", "prepared", "--no-progress")
        if study.vocab_size is not None:
            yield [Step("prepare", module(PREPARE, *prepare, "--vocab-size", str(study.vocab_size)))]
        if not study.starts_fresh:
            own = ("--tokenizer", "prepared/tokenizer") if study.vocab_size is not None else ()
            yield [Step(START, module("support.evidence.starts", study.model, self._start, *own))]
        if study.vocab_size is None:
            yield [Step("prepare", module(PREPARE, *prepare, "--tokenizer", self._start))]
        if study.adaptation:
            yield [self._training("our-bert-1seq", 0, START, self._start, study.adaptation)]

    @property
    def _start(self) -> str:
        return f"{self.study.model}-start"

    def checkpoints(self) -> list[tuple[str, int]]:
        return [(system, seed) for seed in range(self.seeds) for system in SYSTEMS]

    def trainings(self) -> list[Step]:
        start = self.study.model
        if not self.study.starts_fresh:
            start = self.folder(START, 0) if self.study.adaptation else self._start
        return [
            self._training(system, seed, f"{system}-seed{seed}", start, self.study.tokens)
            for system, seed in self.checkpoints()
        ]

    def _training(self, recipe: str, seed: int, name: str, model: str, tokens: int) -> Step:
        study, output = self.study, f"pretrain/{name}"
        command = module(
            PRETRAIN,
            *("--recipe", recipe, "--corpus", "prepared", "--model", model, "--output", output, *ALIKE),
            *("--held-out", f"{study.held_out:g}"),
            *("--tokens-per-batch", str(study.tokens_per_batch), "--max-tokens", str(tokens)),
            *("--learning-rate", str(study.learning_rate), "--device", study.device, "--seed", str(seed)),
            *("--eval-steps", "1000000", "--save-steps", str(study.save_steps), "--logging-steps", "20"),
            *("--report-to", "none", "--no-progress"),
        )
        resumed = module(PRETRAIN, "--output", output, "--resume")
        return Step(f"pretrain-{name}", command, self.work / output / "run.json", resumed)

    def folder(self, system: str, seed: int) -> str:
        return f"pretrain/{system if system == START else f'{system}-seed{seed}'}"

    def mask_laws(self, system: str, seed: int) -> Step:
        file = str(self.mask_law_file(system, seed).relative_to(self.work))
        arguments = (self.folder(system, seed), "prepared", file, "--device", self.study.device)
        arguments += ("--held-out", f"{self.study.held_out:g}")
        return Step(f"mask-laws-{system}-seed{seed}", module("support.evidence.mask_laws", *arguments))

    def mask_law_file(self, system: str, seed: int) -> Path:
        return self.work / "mask-laws" / f"{system}-seed{seed}.json"

    def evaluations(self) -> list[Evaluation]:
        """Those whose data is there."""
        return [own for own in self.study.evaluations if (self.data / own.data).exists()]

    def evaluation(self, evaluation: Evaluation) -> Step:
        named = [f"{SYSTEMS[system]}={self.folder(system, seed)}" for system, seed in self.checkpoints()]
        if self.study.adaptation:
            named.insert(0, f"{START}={self.folder(START, 0)}")
        command = module(
            EVALUATE,
            *(evaluation.task, *named, "--data", str(self.data / evaluation.data)),
            *("--output", f"evaluate/{evaluation.name}", "--seeds", str(evaluation.seeds)),
            *(*evaluation.options, "--device", self.study.device),
        )
        return Step(f"evaluate-{evaluation.name}", command)

    def summary_file(self, evaluation: Evaluation) -> Path:
        return self.work / "evaluate" / evaluation.name / "summary.json"

    def cost(self, system: str, turn: int) -> Step:
        file = str(self.cost_file(system, turn).relative_to(self.work))
        arguments = (self.folder(system, 0), file, "--device", self.study.device)
        return Step(f"cost-{system}-{turn}", module("support.evidence.cost", *arguments))

    def cost_file(self, system: str, turn: int) -> Path:
        return self.work / "cost" / f"{system}-{turn}.json"

    def metrics_file(self, system: str, seed: int) -> Path:
        return self.work / self.folder(system, seed) / "metrics.json"
