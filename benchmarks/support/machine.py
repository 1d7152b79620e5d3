# SPDX-License-Identifier: Apache-2.0
"""The machine and the versions that a report names.

CPU threads. torch's intra-op pool is what `--threads` or OMP_NUM_THREADS sets, else the number of cores; it is in the
JSON with the load of the machine. More threads than free cores, or another busy process, makes OpenMP barriers wait
and every figure worse, unevenly: a report with a high `load_average` is not reliable.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parents[2]


def first_match(path: str, pattern: str) -> str | None:
    try:
        found = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    except OSError:
        return None
    return found.group(1).strip() if found else None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were taken on."""
    described: dict[str, Any] = {
        "cpu": first_match("/proc/cpuinfo", r"^model name\s*:\s*(.*)$") or platform.processor(),
        "architecture": platform.machine(),
        "cores": cores(),
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": round(int(first_match("/proc/meminfo", r"^MemTotal:\s*(\d+)") or 0) * 1024 / 1e9, 1),
        "load_average": list(os.getloadavg()),
        "system": platform.platform(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described["gpu"] = properties.name
        described["gpu_memory_gb"] = round(properties.total_memory / 1e9, 1)
        described["cuda"] = torch.version.cuda
    return described


def device_name(described: Mapping[str, Any]) -> str:
    """A machine's folder below results/: `cpu-2core-avx512`, `nvidia-h200`. `described`: by `machine`."""
    name = described.get("gpu") or f"cpu-{described['cores']}core-{described['cpu_capability']}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Versions of Python, torch, spanbert_ext and `packages` (those that are installed)."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("spanbert_ext", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """What SPANBERT_EXT_COMMIT says: a copy of the tree on a machine for measuring has no history, or another's.

    Else the checked-out commit, with `-dirty` when tracked files other than results differ from it; None outside a
    checkout.
    """
    if named := os.environ.get("SPANBERT_EXT_COMMIT"):
        return named

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def available_bytes(device: torch.device) -> int:
    """Memory that a step could still take on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(first_match("/proc/meminfo", r"^MemAvailable:\s*(\d+)") or 2**33) * 1024
