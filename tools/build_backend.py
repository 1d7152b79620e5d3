# SPDX-License-Identifier: Apache-2.0
"""setuptools' build backend, plus one rule: require torch for a build only when the target has none.

torch among pyproject.toml's build requirements would make every isolated build download a second torch of
gigabytes, and compile against that one.
"""

from __future__ import annotations

from installed_torch import MINIMUM_TORCH, find_torch

try:
    from setuptools import __version__, build_meta
    from setuptools.build_meta import *  # noqa: F403 (the hooks that stay as they are)
except ModuleNotFoundError:
    __version__ = "0"
if (
    int(__version__.partition(".")[0]) < 77
):  # older ones do not read this pyproject.toml; isolation has a newer one
    raise SystemExit(
        "A build without isolation needs the build tools: pip install 'setuptools>=77' cmake ninja pybind11"
    )


def _torch_requirement() -> list[str]:
    return [] if find_torch() else [f"torch>={'.'.join(map(str, MINIMUM_TORCH))}"]


def get_requires_for_build_wheel(config_settings=None) -> list[str]:
    return build_meta.get_requires_for_build_wheel(config_settings) + _torch_requirement()


def get_requires_for_build_editable(config_settings=None) -> list[str]:
    return build_meta.get_requires_for_build_editable(config_settings) + _torch_requirement()
