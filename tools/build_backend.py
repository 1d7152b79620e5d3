"""setuptools' build backend, plus one rule: require torch for a build only when the target has none.

torch among pyproject.toml's build requirements would make every isolated build download a second torch of
gigabytes, and compile against that one.
"""

from __future__ import annotations

from installed_torch import MINIMUM_TORCH, find_torch

try:
    from setuptools import build_meta
    from setuptools.build_meta import *  # noqa: F403 (the hooks that stay as they are)
except ModuleNotFoundError as error:
    raise SystemExit(
        "a build without isolation needs the build tools: pip install setuptools cmake ninja pybind11"
    ) from error


def _torch_requirement() -> list[str]:
    return [] if find_torch() else [f"torch>={'.'.join(map(str, MINIMUM_TORCH))}"]


def get_requires_for_build_wheel(config_settings=None) -> list[str]:
    return build_meta.get_requires_for_build_wheel(config_settings) + _torch_requirement()


def get_requires_for_build_editable(config_settings=None) -> list[str]:
    return build_meta.get_requires_for_build_editable(config_settings) + _torch_requirement()
