# SPDX-License-Identifier: Apache-2.0
"""PNG plots of findings. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spanbert_ext.evaluate.statistics.compare import Estimate
from support.evidence.findings import Finding
from support.evidence.studies import START, SYSTEMS

# Told apart by people who see fewer colours, too (Okabe and Ito's), and by their shape.
COLOURS = dict(zip(SYSTEMS.values(), ("#999999", "#E69F00", "#0072B2", "#D55E00"), strict=True)) | {
    START: "black"
}
MARKERS = dict(zip(SYSTEMS.values(), "s^Do", strict=True)) | {START: "x"}


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no display and no global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plot_scores(path: Path, findings: Sequence[Finding], columns: int = 3) -> None:
    """A panel for each data set and its first metric: a mark and an interval a system, and a constant answer."""
    columns = min(columns, len(findings))
    lines = -(-len(findings) // columns)
    figure = _figure(4.2 * columns, 2.3 * lines)
    grid = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, finding in zip(grid, findings, strict=False):
        comparison = finding.comparisons[-1 if finding.kind == "mask laws" else 0]
        estimates = comparison.estimates
        for place, own in enumerate(estimates):
            colour = COLOURS[own.checkpoint]
            axes.hlines(place, own.interval.low, own.interval.high, color=colour, linewidth=2)
            axes.plot(own.value, place, MARKERS[own.checkpoint], color=colour)
        constant = finding.constant.get(comparison.metric)
        if constant is not None:
            axes.axvline(constant, color="black", linestyle=":", linewidth=1)
        axes.set_yticks(range(len(estimates)), [own.checkpoint for own in estimates])
        axes.set_ylim(len(estimates) - 0.5, -0.5)
        axes.set_title(finding.title, fontsize=10)
        axes.set_xlabel(f"{comparison.metric}, %", fontsize=9)
        axes.grid(axis="x", alpha=0.3)
    for axes in grid[len(findings) :]:
        axes.remove()
    figure.savefig(path)


def plot_lengths(path: Path, by_system: Mapping[str, Mapping[str, Estimate]]) -> None:
    """Accuracy by the length of the masked span, with intervals."""
    figure = _figure(7, 4)
    axes = figure.add_subplot()
    for shift, (name, by_length) in enumerate(by_system.items()):
        places = [place + 0.08 * (shift - 1.5) for place in range(len(by_length))]
        values = [own.value for own in by_length.values()]
        errors = [
            [own.value - own.interval.low for own in by_length.values()],
            [own.interval.high - own.value for own in by_length.values()],
        ]
        axes.errorbar(
            places, values, errors, color=COLOURS[name], marker=MARKERS[name], label=name, capsize=2
        )
        axes.set_xticks(range(len(by_length)), list(by_length))
    axes.set(xlabel="length of the masked span, tokens", ylabel="tokens right, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
