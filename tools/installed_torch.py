# SPDX-License-Identifier: Apache-2.0
"""Finds the torch that the extension will run with, without importing it.

Run as a script it prints `folder;version;cuda version`, a CMake list; an argument names the folder.
A build must use the torch that is already installed, and a build tool may hide it:

    no isolation (pip, uv)    torch is importable
    pip with isolation        the interpreter is the target's, so its site folders hold torch
    python -m build           a throw-away environment; VIRTUAL_ENV or CONDA_PREFIX names the activated target
    uv with isolation, other  nothing names the target: stop, and say what to do
"""

from __future__ import annotations

import importlib.util
import os
import re
import site
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MINIMUM_TORCH = (2, 11)

HIDDEN_TARGET = """
spanbert-ext is compiled against the torch that it will run with, and found none in:
    {folders}
If torch is not installed yet, install it first. If it is, this build cannot see it; do one of these:
    uv pip        uv pip install setuptools cmake ninja pybind11 && uv pip install --no-build-isolation .
    build         activate the environment that has torch and run python -m build
    other tools   set SPANBERT_EXT_TORCH to the folder of the installed torch (.../site-packages/torch)
Nothing was downloaded: a second torch would not fit the first.
"""


class InstalledTorch(NamedTuple):
    folder: Path
    version: str  # "2.13.0+cpu"
    cuda: str  # "13.0", or "" for a CPU build


def read_torch(folder: Path) -> InstalledTorch | None:
    """What `folder/version.py` says, or None when that is no torch package.

    Raises SystemExit below MINIMUM_TORCH.
    """
    try:
        text = (folder / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    version = re.search(r"^__version__\s*=\s*'((\d+)\.(\d+)[^']*)'", text, re.MULTILINE)
    if version is None:
        return None
    cuda = re.search(r"^cuda\b[^=\n]*=\s*'([^']+)'", text, re.MULTILINE)
    if (int(version[2]), int(version[3])) < MINIMUM_TORCH:
        lowest = ".".join(map(str, MINIMUM_TORCH))
        raise SystemExit(f"spanbert-ext needs torch >= {lowest}, {folder} is {version[1]}: upgrade it first")
    return InstalledTorch(folder, version[1], cuda[1] if cuda else "")


def in_pip_isolation() -> bool:
    """Whether pip made this build's environment: then the running interpreter is the target's."""
    return any("pip-build-env-" in folder for folder in sys.path)


def candidate_folders() -> Iterator[Path]:
    """Where the target's torch may lie, in the order of trust."""
    spec = importlib.util.find_spec("torch")  # also an editable install; a top-level name is not imported
    yield from map(Path, (spec and spec.submodule_search_locations) or ())
    site_folders = site.getsitepackages()
    if sys.base_prefix in site.PREFIXES:  # no virtual environment, or one that sees the system's packages
        site_folders.append(site.getusersitepackages())
    if not in_pip_isolation():  # pip may run for another environment than the activated one
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        activated = filter(None, map(os.environ.get, ("VIRTUAL_ENV", "CONDA_PREFIX")))
        site_folders += [os.path.join(prefix, "lib", python, "site-packages") for prefix in activated]
    yield from (Path(folder, "torch") for folder in dict.fromkeys(site_folders))


def find_torch() -> InstalledTorch | None:
    """The torch this build is for; None when pip's target has none. Raises SystemExit when it cannot tell."""
    named = os.environ.get("SPANBERT_EXT_TORCH")
    if named:
        torch = read_torch(Path(named)) or read_torch(Path(named, "torch"))
        if torch is None:
            raise SystemExit(f"SPANBERT_EXT_TORCH={named} is no torch package folder (it has no version.py)")
        return torch
    candidates = list(candidate_folders())
    torch = next(filter(None, map(read_torch, candidates)), None)
    if torch is None and not in_pip_isolation():
        raise SystemExit(HIDDEN_TARGET.format(folders="\n    ".join(map(str, candidates))))
    return torch


def main() -> None:
    torch = read_torch(Path(sys.argv[1])) if len(sys.argv) > 1 else find_torch()
    if torch is None:
        raise SystemExit(f"no torch package in {' '.join(sys.argv[1:]) or 'this environment'}")
    print(torch.folder.as_posix(), torch.version, torch.cuda, sep=";", end="")


if __name__ == "__main__":
    main()
