"""A folder of reports as one Markdown page: what was measured, on what, and where this project loses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MARK = "<!-- Written by benchmarks/run_all.py from the JSON files beside it. -->"
OURS = (
    "fused",
    "span_mask",
    "span_masker",
    "collator_tensors",
    "collator_lists",
    "spanbert",
    "spanbert_no_sbo",
)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _bold_if_ours(name: str) -> str:
    return f"**{name}**" if name in OURS else name


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _with(report: dict[str, Any]) -> str:
    """One line: on what, when."""
    where, rates = report["machine"], report["rates"]
    gemm = f", GEMM {rates['gemm_tflop_s']:.3g} TFLOP/s" if "gemm_tflop_s" in rates else ""
    named = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    rounds = f"{report['rounds']} rounds, " if "rounds" in report else ""
    threads, load = where["torch_threads"], where["load_average"][0]
    return (
        f"{rounds}{threads} CPU threads on {where['cores']} cores, load before {load:.1f}; "
        f"copy {rates['copy_gb_s']:.3g} GB/s{gemm}; {named}; commit {report['commit']}."
    )


def _head(report: dict[str, Any]) -> tuple[str, str, list[str]]:
    reference, sizes = report["reference"], report["sizes"]
    ratio = f"time_over_{reference}"
    entries = [*report["providers"].items(), ("three bare GEMMs", report["gemm_floor"])]
    rows = [
        [
            _bold_if_ours(name),
            *(_number(entry[part]["p50"]) for part in ("forward_ms", "backward_ms", "full_ms")),
            f"{entry[ratio]['p50']:.2f}",
            _number(entry.get("peak_mb")),
        ]
        for name, entry in entries
    ]
    title = (
        f"MLM + SBO loss: {report['shape']}, {report['dtype']}, vocabulary {sizes['vocab']}, "
        f"{sizes['mlm_rows']} MLM and {sizes['sbo_rows']} SBO rows"
    )
    header = ["provider", "forward ms", "backward ms", "full ms", f"time / {reference}", "peak MB"]
    lost = [
        f"{report['shape']} {report['dtype']} (vocabulary {sizes['vocab']}): {name} takes "
        f"{entry[ratio]['p50']:.2f} of our time"
        for name, entry in report["providers"].items()
        if name not in OURS and entry[ratio]["p50"] < 1
    ]
    return title, markdown_table(header, rows), lost


def _masking(report: dict[str, Any]) -> tuple[str, str, list[str]]:
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
    return title, table, lost


def _step(report: dict[str, Any]) -> tuple[str, str, list[str]]:
    reference, sizes = report["reference"], report["sizes"]
    ratio, entries = f"speed_over_{reference}", report["providers"]
    rows = [
        [
            _bold_if_ours(name),
            f"{entry['tokens_per_s']:.0f}",
            _number(entry["step_ms"]["p50"]),
            f"{entry[ratio]['p50']:.2f}",
            _number(entry["peak_mb"]),
        ]
        for name, entry in entries.items()
    ]
    compiled = ", torch.compile" if report["compile"] else ""
    title = f"Training step: {report['shape']}, {sizes['layers']} layers, {report['dtype']}{compiled}"
    ahead = [
        ("masked_only", "spanbert"),
        ("stock_mlm", "spanbert"),
        ("masked_only_no_sbo", "spanbert_no_sbo"),
    ]
    speed = {name: entry["tokens_per_s"] for name, entry in entries.items()}
    lost = [
        f"{title}: {peer} makes {speed[peer]:.0f} tokens/s, {mine} {speed[mine]:.0f}"
        for peer, mine in ahead
        if peer in speed and mine in speed and speed[peer] > speed[mine]
    ]
    header = ["provider", "tokens/s", "ms a step", f"speed / {reference}", "peak MB"]
    return title, markdown_table(header, rows), lost


def _growth(report: dict[str, Any]) -> tuple[str, str, list[str]]:
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
    return title, markdown_table(["point", *map(_bold_if_ours, names)], rows), []


SECTIONS = {"bench_sbo": _head, "bench_span_mask": _masking, "bench_step": _step, "bench_growth": _growth}


def page(folder: Path) -> str:
    """The page of all reports in `folder`."""
    reports = [(path, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    reports = [(path, report) for path, report in reports if report.get("benchmark") in SECTIONS]
    sections, losses = [], []
    for kind, describe in SECTIONS.items():
        for path, report in reports:
            if report["benchmark"] != kind:
                continue
            title, table, lost = describe(report)
            losses += lost
            left_out = [
                f"* not measured: {name}: {reason}" for name, reason in report.get("unavailable", {}).items()
            ]
            picture = path.with_suffix(".png")
            shown = f"![{title}]({picture.name})" if picture.exists() else ""
            parts = [f"## {title}", table, _with(report), "\n".join(left_out), shown]
            sections.append("\n\n".join(part for part in parts if part))
    where = reports[0][1]["machine"] if reports else {}
    named = (
        where.get("gpu") or f"{where.get('cpu')}, {where.get('cores')} cores, {where.get('cpu_capability')}"
    )
    lost_lines = "\n".join(f"* {line}" for line in losses) or "Nowhere, in what was measured here."
    head = [
        MARK,
        f"# Benchmarks on {named}",
        "Medians; every ratio is taken within the rounds of one run. Peak memory is the high-water mark of a step "
        "minus what is alive after it. Bold is this project.",
        f"## Where we lose\n\n{lost_lines}",
    ]
    return "\n\n".join([*head, *sections]) + "\n"
