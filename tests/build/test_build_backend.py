# SPDX-License-Identifier: Apache-2.0
"""The build uses the installed torch, requires one only where there is none, and stops where it cannot decide."""

from __future__ import annotations

import importlib.util
import re
import site
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
if not TOOLS.is_dir():
    pytest.skip("the build's sources are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(TOOLS))
import installed_torch  # noqa: E402
from installed_torch import find_torch, read_torch  # noqa: E402

SITE_PACKAGES = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"


def make_torch(folder: Path, version: str = "2.13.0+cpu", cuda: str | None = None) -> Path:
    """A torch package of one file, written as torch's own build writes it."""
    package = folder / "torch"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").write_text("raise RuntimeError('the build must not import torch')")
    package.joinpath("version.py").write_text(
        "from typing import Optional\n\n"
        "__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip', 'rocm', 'xpu']\n"
        f"__version__ = '{version}'\ndebug = False\ncuda: Optional[str] = {cuda!r}\ngit_version = 'cf30'\n"
    )
    return package


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A throw-away build environment: the standard library, no torch anywhere, no variable set."""
    environment = tmp_path / "build-env"
    for variable in ("SPANBERT_EXT_TORCH", "VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not Path(path, "torch").exists()])
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if isinstance(finder, type)])
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(site, "PREFIXES", [str(environment)])
    monkeypatch.setattr(site, "getusersitepackages", lambda: str(tmp_path / "user"))
    return environment


@pytest.fixture
def pip_isolation(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip's build environment: its own folders on the path, the target's interpreter and site folders."""
    monkeypatch.setattr(
        sys, "path", [*sys.path, str(bare.parent / "pip-build-env-abc/overlay/lib/site-packages")]
    )
    return bare


def test_version_and_cuda_are_read_as_text(tmp_path: Path) -> None:
    cpu = make_torch(tmp_path / "cpu")
    cuda = make_torch(tmp_path / "cuda", "2.14.1+cu130", "13.0")
    assert read_torch(cpu) == (cpu, "2.13.0+cpu", "")
    assert read_torch(cuda) == (cuda, "2.14.1+cu130", "13.0")
    assert read_torch(tmp_path) is None


@pytest.mark.parametrize("version", ["1.13.1", "2.9.1", "2.10.0+cu128"])
def test_a_torch_below_the_lowest_version_is_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(SystemExit, match=rf"torch >= 2\.11.*{re.escape(version)}"):
        read_torch(make_torch(tmp_path, version))


@pytest.mark.parametrize("parent", [False, True])
def test_the_variable_wins(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parent: bool) -> None:
    make_torch(bare / SITE_PACKAGES)
    named = make_torch(tmp_path / "named", "2.12.0")
    monkeypatch.setenv("SPANBERT_EXT_TORCH", str(named.parent if parent else named))
    assert find_torch() == (named, "2.12.0", "")


def test_a_wrong_variable_stops_the_build(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_torch(bare / SITE_PACKAGES)
    monkeypatch.setenv("SPANBERT_EXT_TORCH", "/nowhere")
    with pytest.raises(SystemExit, match="SPANBERT_EXT_TORCH=/nowhere is no torch package folder"):
        find_torch()


def test_without_isolation_torch_is_importable(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_torch(tmp_path / "packages")
    monkeypatch.setattr(sys, "path", [*sys.path, str(package.parent)])
    assert find_torch().folder == package


def test_pip_isolation_finds_the_torch_of_its_interpreter(pip_isolation: Path) -> None:
    package = make_torch(pip_isolation / SITE_PACKAGES)
    assert find_torch().folder == package


def test_pip_isolation_ignores_another_activated_environment(
    pip_isolation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_torch(tmp_path / "activated" / SITE_PACKAGES)
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "activated"))
    assert find_torch() is None


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_python_m_build_finds_the_activated_environment(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    package = make_torch(tmp_path / "activated" / SITE_PACKAGES)
    monkeypatch.setenv(variable, str(tmp_path / "activated"))
    assert find_torch().folder == package


def test_user_site_counts_only_where_python_uses_it(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_torch(tmp_path / "user")
    with pytest.raises(SystemExit):
        find_torch()
    monkeypatch.setattr(site, "PREFIXES", [sys.base_prefix + "/.", sys.base_prefix])
    monkeypatch.setattr(site, "getsitepackages", lambda: [])
    assert find_torch().folder == package


def test_a_hidden_target_stops_with_instructions(bare: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        find_torch()
    for advice in ("uv pip install --no-build-isolation .", "python -m build", "SPANBERT_EXT_TORCH"):
        assert advice in str(stop.value)


def load_backend():
    spec = importlib.util.spec_from_file_location("build_backend", TOOLS / "build_backend.py")
    backend = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(backend)
    return backend


@pytest.mark.parametrize("hook", ["get_requires_for_build_wheel", "get_requires_for_build_editable"])
@pytest.mark.parametrize("installed", [True, False])
def test_torch_is_required_for_the_build_only_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, hook: str, installed: bool
) -> None:
    backend = load_backend()
    monkeypatch.setattr(backend.build_meta, hook, lambda settings: ["setuptools"])
    found = installed_torch.InstalledTorch(Path("torch"), "2.13.0", "") if installed else None
    monkeypatch.setattr(backend, "find_torch", lambda: found)
    assert getattr(backend, hook)() == ["setuptools"] + ([] if installed else ["torch>=2.11"])


def test_the_stated_lowest_versions_agree() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    lowest = ".".join(map(str, installed_torch.MINIMUM_TORCH))
    assert f'"torch>={lowest}"' in project
    assert 'requires-python = ">=3.10"' in project and 'target-version = "py310"' in project
    build_requirements = project.partition("[project]")[0]
    assert "torch>=" not in build_requirements
    assert "find_package(Python 3.10 " in (ROOT / "CMakeLists.txt").read_text()
