# SPDX-License-Identifier: Apache-2.0
"""The figures of runs side by side: what each row of the table is, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from spanbert_ext.files.output import encodable
from spanbert_ext.files.wording import duration, short
from spanbert_ext.pretrain.report.run_reader import Run


@dataclass(frozen=True)
class Figure:
    """A column of the table: a short title, what it means, and a cell for each run; `best` are the runs with the best
    value, where one is better than another."""

    title: str
    meaning: str
    cells: list[str]
    best: frozenset[int] = frozenset()


def figures(runs: Sequence[Run]) -> list[Figure]:
    """The columns that at least one run has a value for."""
    found = [
        Figure("run", "the folder", [run.name for run in runs]),
        Figure("model", "size or checkpoint, recipe", [_model(run) for run in runs]),
        Figure("state", "how far it is", [run.state for run in runs]),
        Figure("steps", "updates", [f"{run.steps:,}" for run in runs]),
    ]
    tokens = [run.last("tokens_seen") for run in runs]
    found.append(
        Figure(
            "tokens",
            "read in training, special ones included",
            ["" if value is None else short(value) for value in tokens],
        )
    )
    laws = [run.laws() for run in runs]
    alike = len({run.masking for run in runs}) == 1  # losses under different masks are not better or worse
    own = [law.get(run.masking, {}) for run, law in zip(runs, laws, strict=True)]
    found.append(
        _compared(
            "MLM", "held-out loss under the run's own masking, nats", own, "mlm_loss", "{:.3f}", min, alike
        )
    )
    found.append(
        _compared("SBO", "the same of the span-boundary objective", own, "sbo_loss", "{:.3f}", min, alike)
    )
    found.append(_compared("NSP right", "held-out pairs told apart", own, "nsp_accuracy", "{:.1%}", max))
    for law in ("spans", "tokens"):
        of_law = [found_law.get(law, {}) for found_law in laws]
        meaning = f"held-out tokens that the MLM head predicts where {law} are masked"
        found.append(_compared(f"{law} right", meaning, of_law, "mlm_accuracy", "{:.1%}", max))
    speed = [{"x": run.last("tokens_per_second")} for run in runs]
    found.append(_compared("tokens/s", "in training", speed, "x", "{:,.0f}", max))
    found.append(
        _compared(
            "MFU", "share of the GPU's peak", [{"x": run.last("mfu")} for run in runs], "x", "{:.0%}", max
        )
    )
    memory = [{"x": run.last("memory_gb")} for run in runs]
    found.append(
        _compared("GB", "peak memory of the GPU; on a CPU of the process", memory, "x", "{:.2f}", min)
    )
    seconds = [run.metrics.get("train_seconds") for run in runs]
    found.append(
        Figure(
            "time",
            "of training, without evaluations",
            ["" if value is None else duration(value) for value in seconds],
        )
    )
    return [figure for figure in found if any(cell != "" for cell in figure.cells)]


def _compared(
    title: str,
    meaning: str,
    values: Sequence[Mapping[str, float]],
    name: str,
    form: str,
    better: Callable[[Iterable[float]], float],
    comparable: bool = True,
) -> Figure:
    row = [value.get(name) for value in values]
    cells = ["" if value is None else form.format(value) for value in row]
    known = {value for value in row if value is not None}
    winner = better(known) if comparable and len(known) > 1 else None
    best = frozenset(index for index, value in enumerate(row) if winner is not None and value == winner)
    return Figure(title, meaning, cells, best)


def _model(run: Run) -> str:
    model, recipe = str(run.options.get("model") or ""), run.options.get("recipe")
    model = model.rstrip("/").rpartition("/")[2]
    return f"{recipe}, {model}" if recipe else model


def terminal_table(runs: Sequence[Run]) -> str:
    """The figures as lines, a run each; `*` marks the best of a column."""
    columns = figures(runs)
    texts = [
        [column.title, *(encodable(cell) + "*" * (i in column.best) for i, cell in enumerate(column.cells))]
        for column in columns
    ]
    widths = [max(map(len, cells)) for cells in texts]
    lines = []
    for row in range(len(runs) + 1):
        cells = [
            cells[row].ljust(width) if place < 3 else cells[row].rjust(width)
            for place, (cells, width) in enumerate(zip(texts, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
