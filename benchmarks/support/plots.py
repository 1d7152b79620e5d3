# SPDX-License-Identifier: Apache-2.0
"""PNG plots of reports. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bars:
    """One panel: bars of length p50, a line from p20 to p80, the first part dark, a level marked."""

    label: str
    values: Mapping[str, Mapping[str, float]]
    first_part: Mapping[str, float] | None = None
    level: tuple[str, float] | None = None
    logarithmic: bool = False


def plot_bars(path: Path, title: str, panels: Sequence[Bars]) -> None:
    """A PNG with one panel of horizontal bars beside the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = max(len(panel.values) for panel in panels)
    figure = Figure(figsize=(6.5 * len(panels), 1.6 + 0.45 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        names = list(panel.values)
        axes.barh(names, [panel.values[name]["p50"] for name in names], color="#8fb8de")
        if panel.first_part:
            axes.barh(names, [panel.first_part[name] for name in names], color="#3b6ea5")
        for place, name in enumerate(names):
            spread = panel.values[name]
            end = spread.get("p80", spread["p50"])
            axes.hlines(place, spread.get("p20", end), end, color="black", linewidth=1.5)
            axes.annotate(
                f"{spread['p50']:.4g}", (end, place), (4, 0), textcoords="offset points", va="center"
            )
        if panel.level:
            axes.axvline(panel.level[1], color="#c0392b", linestyle="--", label=panel.level[0])
            axes.legend(fontsize=8)
        if panel.logarithmic:
            axes.set_xscale("log")
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel(panel.label)
    figure.savefig(path, dpi=130)


@dataclass(frozen=True)
class Lines:
    """One panel: a line per name through (x, y) points, both axes logarithmic, or linear `from_zero` on."""

    x_label: str
    y_label: str
    points: Mapping[str, Sequence[tuple[float, float]]]
    from_zero: bool = False


def plot_lines(path: Path, title: str, panels: Sequence[Sequence[Lines]]) -> None:
    """A PNG with rows of panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(row) for row in panels)
    figure = Figure(figsize=(4.6 * columns, 0.8 + 3.4 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    for row, axes_row in zip(panels, figure.subplots(len(panels), columns, squeeze=False), strict=True):
        for panel, axes in zip(row, axes_row, strict=True):
            axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
            for name, points in panel.points.items():
                shown = [(x, y) for x, y in points if y > 0]  # a logarithmic axis has no zero
                if shown:
                    axes.plot(*zip(*shown, strict=True), marker="o", markersize=3.5, label=name)
            if panel.from_zero:
                axes.margins(0.1)
                axes.set(xlim=(0, None), ylim=(0, None))
            else:
                axes.set(xscale="log", yscale="log")
            places = sorted({x for points in panel.points.values() for x, _ in points})
            axes.set_xticks(places, [f"{x:g}" for x in places])
            axes.set_xticks([], minor=True)
            axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=130)
