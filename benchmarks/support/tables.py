# SPDX-License-Identifier: Apache-2.0
"""A folder of reports as one Markdown page: what was measured, on what, and where this project loses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

MARK = "<!-- Written by benchmarks/run_all.py from the JSON files beside it. -->"
OURS = (
    "fused",
    "span_mask",
    "span_masker",
    "collator_tensors",
    "collator_lists",
    "spanbert",
    "spanbert_no_sbo",
    "spanbert_labels",
)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _bold_if_ours(name: str) -> str:
    return f"**{name}**" if name in OURS else name


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _left_out(report: dict[str, Any], at: str = "") -> list[str]:
    return [f"* not measured{at}: {name}: {reason}" for name, reason in report.get("unavailable", {}).items()]


class Section(NamedTuple):
    """What the page says of one report."""

    title: str
    table: str
    lost: list[str]
    notes: list[str]
    rounds: int | None = None


def _with(report: dict[str, Any], rounds_done: int | None) -> str:
    """One line: on what, when."""
    where, rates = report["machine"], report["rates"]
    gemm = f", GEMM {rates['gemm_tflop_s']:.3g} TFLOP/s" if "gemm_tflop_s" in rates else ""
    named = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    rounds = "" if rounds_done is None else f"{rounds_done} rounds, "
    threads, load = where["torch_threads"], where["load_average"][0]
    return (
        f"{rounds}{threads} CPU threads on {where['cores']} cores, load before {load:.1f}; "
        f"copy {rates['copy_gb_s']:.3g} GB/s{gemm}; {named}; commit {report['commit']}."
    )


def by_provider(runs: Sequence[dict[str, Any]]) -> list[tuple[str, int, dict[str, Any]]]:
    """Provider, vocabulary and figures of bench_sbo's runs; those of one provider side by side, the floor last."""
    names = dict.fromkeys(name for found in runs for name in found["providers"])
    figures = [{**found["providers"], "gemm_floor": found["gemm_floor"]} for found in runs]
    return [
        (name, found["sizes"]["vocab"], measured[name])
        for name in [*names, "gemm_floor"]
        for found, measured in zip(runs, figures, strict=True)
        if name in measured
    ]


def _head(report: dict[str, Any]) -> Section:
    runs = report.get("runs", [report])  # older reports, of one vocabulary, are flat
    entries = by_provider(runs)
    vocabs = [found["sizes"]["vocab"] for found in runs]
    against = list(
        dict.fromkeys(key for _, _, entry in entries for key in entry if key.startswith("time_over_"))
    )
    several = len(runs) > 1
    rows = [
        [
            "three bare GEMMs" if name == "gemm_floor" else _bold_if_ours(name),
            *([str(vocab)] if several else []),
            *(_number(entry[part]["p50"]) for part in ("forward_ms", "backward_ms", "full_ms")),
            *(f"{entry[key]['p50']:.2f}" if key in entry else "-" for key in against),
            _number(entry.get("peak_mb")),
        ]
        for name, vocab, entry in entries
    ]
    sizes = runs[0]["sizes"]
    title = (
        f"MLM + SBO loss: {report['shape']}, {report['dtype']}, vocabulary {' and '.join(map(str, vocabs))}, "
        f"{sizes['mlm_rows']} MLM and {sizes['sbo_rows']} SBO rows"
    )
    named = [key.removeprefix("time_over_").replace("gemm_floor", "bare GEMMs") for key in against]
    header = ["provider", *(["vocabulary"] if several else []), "forward ms", "backward ms", "full ms"]
    header += [f"time / {name}" for name in named] + ["peak MB"]
    notes, lost = [], []
    for found, vocab in zip(runs, vocabs, strict=True):
        at = f" at vocabulary {vocab}" if several else ""
        layouts = found["gemm_floor"].get("layouts", {})
        if layouts:
            dtype = layouts.get("dtype")  # of all three, in reports that tried no padded layouts
            unpadded = "; no padded ones tried" + (
                ": no floor on a GPU" if "gpu" in report["machine"] else ""
            )
            chosen = "; ".join(f"{name} `{how}`" for name, how in layouts.items() if name != "dtype")
            notes.append(
                f"* three bare GEMMs{at}, fastest layouts: {chosen}"
                + (f"; {dtype}{unpadded}" if dtype else "")
            )
        notes += _left_out(found, at)
        reference = found["reference"]
        if reference not in OURS:
            continue
        ratio = f"time_over_{reference}"
        lost += [
            f"{report['shape']} {report['dtype']} (vocabulary {vocab}): {name} takes "
            f"{entry[ratio]['p50']:.2f} of our time"
            for name, entry in found["providers"].items()
            if name not in OURS and entry[ratio]["p50"] < 1
        ]
    return Section(title, markdown_table(header, rows), lost, notes, rounds=runs[0]["rounds"])


def _masking(report: dict[str, Any]) -> Section:
    reference, sizes = report["reference"], report["sizes"]
    ratio = f"time_over_{reference}"
    rows = [
        [
            _bold_if_ours(name),
            f"{entry['tokens_per_s'] / 1e6:.3g}",
            _number(entry["call_ms"]["p50"]),
            f"{entry[ratio]['p50']:.2f}",
        ]
        for name, entry in report["providers"].items()
    ]
    title = f"Masking: {sizes['rows']} x {sizes['length']} tokens on the {report['device']}"
    lost = [
        f"masking: {name} takes {found['p50']:.2f} times the time of its padding alone"
        for name, found in report["collator_over_padding"].items()
        if found["p50"] > 1.1
    ]
    table = markdown_table(["provider", "M tokens/s", "ms a call", f"time / {reference}"], rows)
    return Section(title, table, lost, _left_out(report), report["rounds"])


def _step_entries(report: dict[str, Any]) -> list[dict[str, Any]]:
    """One of each provider and mode. Older reports, of one mode, hold a dictionary by provider."""
    if "entries" in report:
        return report["entries"]
    mode, ratio = "model" if report["compile"] else "eager", f"speed_over_{report['reference']}"
    return [
        {
            "provider": name,
            "mode": mode,
            **found,
            "speed_over": {f"{report['reference']}, {mode}": found[ratio]},
        }
        for name, found in report["providers"].items()
    ]


MODE_NAMES = {"eager": "eager", "layers": "layers compiled", "model": "model compiled"}
RIVALS = (
    ("masked_only", "spanbert"),
    ("stock_mlm", "spanbert"),
    ("masked_only_no_sbo", "spanbert_no_sbo"),
    ("stock_mlm", "spanbert_no_sbo"),
    ("masked_only_labels", "spanbert_labels"),
    ("stock_mlm", "spanbert_labels"),
)


def _step_losses(title: str, speed: dict[tuple[str, str], float]) -> list[str]:
    """Where a rival is ahead of ours in the same mode, or at its best of ours at its best."""
    lost = []
    for rival, mine in RIVALS:
        for mode, shown in MODE_NAMES.items():
            if (rival, mode) not in speed or (mine, mode) not in speed:
                continue
            if speed[rival, mode] > speed[mine, mode]:
                lost.append(
                    f"{title}, {shown}: {rival} makes {speed[rival, mode]:.0f} tokens/s, {mine} "
                    f"{speed[mine, mode]:.0f}"
                )
        best = {
            name: max((value, mode) for (who, mode), value in speed.items() if who == name)
            for name in {who for who, _ in speed} & {rival, mine}
        }
        if len(best) < 2 or best[rival][1] == best[mine][1]:  # of one mode: listed already
            continue
        if best[rival][0] > best[mine][0]:
            lost.append(
                f"{title}: at its best ({MODE_NAMES[best[rival][1]]}) {rival} makes {best[rival][0]:.0f} tokens/s, "
                f"{mine} at its best ({MODE_NAMES[best[mine][1]]}) {best[mine][0]:.0f}"
            )
    return lost


def _against(reference: str) -> str:
    """A column's name: whose speed, in which mode, ours is set against."""
    name, _, mode = reference.partition(", ")
    return f"speed against {name}, {MODE_NAMES[mode]}"


def _step(report: dict[str, Any]) -> Section:
    entries, sizes = _step_entries(report), report["sizes"]
    references = list(dict.fromkeys(name for found in entries for name in found["speed_over"]))
    profiled = any(found.get("gpu_busy_ms") is not None for found in entries)
    rows = [
        [
            _bold_if_ours(found["provider"]),
            MODE_NAMES[found["mode"]],
            f"{found['tokens_per_s']:.0f}",
            _number(found["step_ms"]["p50"]),
            *(
                f"{found['speed_over'][name]['p50']:.2f}" if name in found["speed_over"] else "-"
                for name in references
            ),
            *([_number(found.get(key)) for key in ("gpu_busy_ms", "kernels", "syncs")] if profiled else []),
            _number(found.get("peak_mb")),
        ]
        for found in entries
    ]
    backend = report.get("backend", "inductor")
    by = f", compiled by {backend}" if backend != "inductor" else ""
    title = f"Training step: {report['shape']}, {sizes['layers']} layers, {report['dtype']}{by}"
    header = ["provider", "mode", "tokens/s", "ms a step", *map(_against, references)]
    header += (["GPU busy ms", "kernels", "host syncs"] if profiled else []) + ["peak MB"]
    notes = _left_out(report)
    if "entries" not in report:
        notes.append(
            "* all had a mask of ones with full rows, and spanbert_no_sbo labels without masked positions"
        )
    if report.get("graphs_compiled_while_timed"):
        notes.append(f"* {report['graphs_compiled_while_timed']} graphs were compiled while steps were timed")
    speed = {(found["provider"], found["mode"]): found["tokens_per_s"] for found in entries}
    return Section(title, markdown_table(header, rows), _step_losses(title, speed), notes, report["rounds"])


def _growth(report: dict[str, Any]) -> Section:
    names = list(
        dict.fromkeys(name for points in report["axes"].values() for p in points for name in p["providers"])
    )
    rows = []
    for axis, points in report["axes"].items():
        for point in points:
            costs = []
            for name in names:
                entry = point["providers"].get(name)
                costs.append(
                    "-"
                    if entry is None
                    else f"{entry['full_ms']['p50']:.4g} ms, {_number(entry['peak_mb'])} MB"
                )
            rows.append([f"{axis} {point['sizes'][axis]}", *costs])
    base = "x".join(map(str, report["base"]))
    title = f"Growth around {report['width']}-{base}, {report['dtype']}"
    return Section(title, markdown_table(["point", *map(_bold_if_ours, names)], rows), [], _left_out(report))


def _prepare(report: dict[str, Any]) -> Section:
    rows = [
        [
            f"{axis} {point['sizes'][axis]:.0f}",
            *(_number(point[key]) for key in ("seconds", "mb_s")),
            f"{point['tokens_s']:,.0f}",
            _number(point["peak_mb"]),
        ]
        for axis, points in report["axes"].items()
        for point in points
    ]
    header = ["point", "seconds", "MB/s", "tokens/s", "peak MB of all processes"]
    notes = ["* text and line are megabytes; seconds are without imports, the memory is with them"]
    return Section(f"spanbert-prepare, {report['text']}", markdown_table(header, rows), [], notes)


# The whole step first: the loss alone is a part of it.
SECTIONS = {
    "bench_step": _step,
    "bench_sbo": _head,
    "bench_span_mask": _masking,
    "bench_growth": _growth,
    "bench_prepare": _prepare,
}


def page(folder: Path) -> str:
    """The page of all reports in `folder`."""
    reports = [(path, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    reports = [(path, report) for path, report in reports if report.get("benchmark") in SECTIONS]
    sections, losses = [], []
    for benchmark, describe in SECTIONS.items():
        for path, report in reports:
            if report["benchmark"] != benchmark:
                continue
            found = describe(report)
            losses += found.lost
            early = "" if report.get("complete", True) else " (stopped early: what there was by then)"
            picture = path.with_suffix(".png")
            shown = f"![{found.title}]({picture.name})" if picture.exists() else ""
            lines = [
                f"## {found.title}{early}",
                found.table,
                _with(report, found.rounds),
                "\n".join(found.notes),
                shown,
            ]
            sections.append("\n\n".join(line for line in lines if line))
    where = reports[0][1]["machine"] if reports else {}
    named = (
        where.get("gpu") or f"{where.get('cpu')}, {where.get('cores')} cores, {where.get('cpu_capability')}"
    )
    lost_lines = "\n".join(f"* {line}" for line in losses) or "Nowhere, in what was measured here."
    head = [
        MARK,
        f"# Benchmarks on {named}",
        "Medians; every ratio is taken within the rounds of one run and names what it is against: its provider and, "
        "of a training step, whether that ran eager or compiled. What a user gains is in the tables of training "
        "steps; the loss alone is a small part of a step. Peak memory is the high-water mark of a step minus what is "
        "alive after it. Bold is this project.",
        f"## Where we lose\n\n{lost_lines}",
    ]
    return "\n\n".join([*head, *sections]) + "\n"
