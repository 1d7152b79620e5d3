# SPDX-License-Identifier: Apache-2.0
"""What a command needs beside torch, and what pip installs it by: the extras of pyproject.toml."""

from __future__ import annotations

from importlib.util import find_spec

# By extra, "" for the library itself: the names that are imported of what pyproject.toml requires.
PACKAGES = {
    "": ("numpy", "transformers", "accelerate"),
    "plots": ("matplotlib",),
    "pretrain": ("datasets", "tokenizers", "tensorboard", "matplotlib"),
    "evaluate": ("torchmetrics", "sklearn", "scipy"),
}


def missing_packages(extra: str) -> str | None:
    """In one line which packages of the library and of `extra` are not installed and what installs them; None where
    all are. Nothing is imported."""
    missing = [name for name in (*PACKAGES[""], *PACKAGES[extra]) if find_spec(name) is None]
    if not missing:
        return None
    missing = list(dict.fromkeys(missing))
    names = " and ".join(filter(None, (", ".join(missing[:-1]), missing[-1])))
    what = f"'spanbert-ext[{extra}]'" if extra else "spanbert-ext"
    return f"{names} {'is' if len(missing) == 1 else 'are'} not installed: pip install {what}"
