# SPDX-License-Identifier: Apache-2.0
"""Loads the compiled operators, after a check that they fit this Python and this torch."""

from __future__ import annotations

import platform
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

if sys.platform == "win32":
    raise ImportError("spanbert_ext runs on Linux and macOS; on Windows use the Windows Subsystem for Linux")

import torch

from spanbert_ext._version import __version__, torch_label

_REBUILD = "Rebuild them, in the source folder of spanbert-ext: pip install --force-reinstall --no-deps ."


def _check_versions(built: ModuleType, python: str, torch_version: str, torch_cuda: str | None) -> None:
    """Raises ImportError when the library was compiled for another Python, torch release or CUDA major, and names the
    wheel that fits.

    torch's C++ interface changes with every release: the library would fail on an undefined symbol or,
    worse, load.
    """

    def describe(version: str, cuda: str | None) -> str:
        return f"torch {version} ({f'CUDA {cuda}' if cuda else 'a CPU build'})"

    built_for = (built.TORCH_VERSION, built.TORCH_CUDA_VERSION)
    needed = torch_label(torch_version, torch_cuda)
    if python != built.PYTHON_VERSION:
        wanted, present = f"Python {built.PYTHON_VERSION}", f"Python {python}"
    elif torch_label(*built_for) != needed:
        wanted, present = describe(*built_for), describe(torch_version, torch_cuda)
    else:
        return
    wheel = f"spanbert_ext-{__version__}+{needed}-cp{python.replace('.', '')}-*.whl"
    raise ImportError(
        f"spanbert_ext's operators were compiled for {wanted}, but this is {present}."
        f" Take the wheel {wheel}. Where there is none: {_REBUILD}"
    )


def _load() -> tuple[ModuleType, ModuleType]:
    """The build's facts and the library, which puts the operators into `torch.ops.spanbert_ext`."""
    try:
        config = import_module("spanbert_ext._build_config")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"spanbert_ext in {Path(__file__).parent} has no compiled operators."
            " Build them, in the source folder of spanbert-ext: pip install -e ."
            " (Python started in that folder takes the package from there, not the installed one.)"
        ) from error
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    _check_versions(config, python, torch.__version__, torch.version.cuda)
    try:
        return config, import_module("spanbert_ext._C")
    except ImportError as error:
        raise ImportError(f"spanbert_ext's operators do not load: {error}. {_REBUILD}") from error


_build_config, _C = _load()


def missing_cuda_kernels() -> str:
    """Why this build has no CUDA kernels, empty when it has. A constant: torch.compile can trace it."""
    return _build_config.CUDA_REASON


def build_info() -> dict[str, str | bool]:
    """Versions, CPU instruction sets and CUDA state of the compiled operators.

    `cpu_capability` is what this process uses: the best of the compiled `cpu_capabilities` that the CPU
    has, or a lower one set by SPANBERT_EXT_CPU_CAPABILITY (RuntimeError when that names no known one).
    `cuda_reason` is the reason why `cuda_kernels` is False and is empty otherwise. `cuda_emulated`: a test build
    whose CPU operators are the CUDA code, compiled for the CPU.
    """
    return {
        "spanbert_ext": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda or "",
        "compiled_for_torch": _build_config.TORCH_VERSION,
        "compiler": _build_config.COMPILER,
        "cpu_capabilities": _build_config.CPU_CAPABILITIES,
        "cpu_capability": _C.cpu_capability(),
        "cuda_kernels": not missing_cuda_kernels(),
        "cuda_reason": missing_cuda_kernels(),
        "cuda_emulated": _build_config.CUDA_EMULATED,
        "cuda_architectures": _build_config.CUDA_ARCHITECTURES,
        "nvcc": _build_config.NVCC_VERSION,
    }
