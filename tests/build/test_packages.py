# SPDX-License-Identifier: Apache-2.0
"""What an sdist and a wheel hold: what lies in the source folder now, and nothing of earlier builds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

import spanbert_ext
from spanbert_ext._version import __version__, torch_label

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
if not TOOLS.is_dir():
    pytest.skip("the build's sources are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(TOOLS))
import check_packages  # noqa: E402

# Stands in for CMake, which tests/build/test_build.py sees at work: two files where it installs two.
CMAKE = """#!/bin/sh
[ "$1" = --install ] || exit 0
mkdir -p "$4/spanbert_ext"
echo library > "$4/spanbert_ext/_C.so"
echo 'TORCH_VERSION = "built"' > "$4/spanbert_ext/_build_config.py"
"""
BUILD = """
import os, sys
sys.path.insert(0, "tools")
import build_backend
build_backend.build_sdist("dist")
os.environ["SPANBERT_EXT_RELEASE"] = "ON"
build_backend.build_wheel("dist")
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source folder after builds from an old checkout and in place, with an sdist and a wheel in dist/."""
    folder = tmp_path_factory.mktemp("source")
    package = Path(spanbert_ext.__file__).parent
    shutil.copytree(package, folder / "spanbert_ext", ignore=shutil.ignore_patterns("_C.*", "__pycache__"))
    shutil.copytree(TOOLS, folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    (folder / "spanbert_ext" / "_build_config.py").write_text('TORCH_VERSION = "in place"\n')
    (folder / "spanbert_ext" / "_C.so").write_text("in place")
    old = folder / "build" / f"lib.{setuptools_platform()}"
    for name in ("spanbert_ext/gone.py", "spanbert_ext/gone_room/__init__.py", "spanbert_ext/_C.old.so"):
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).write_text("raise RuntimeError('of an old checkout')\n")
    (folder / "diary.txt").write_text("private")
    (folder / "spanbert_ext.egg-info").mkdir()
    (folder / "spanbert_ext.egg-info" / "SOURCES.txt").write_text("diary.txt\nspanbert_ext/gone.py\n")
    for name in ("cmake", "ninja"):
        (folder / "bin" / name).parent.mkdir(exist_ok=True)
        (folder / "bin" / name).write_text(CMAKE)
        (folder / "bin" / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "SPANBERT_EXT_TORCH": str(Path(torch.__file__).parent),
    }
    command = [sys.executable, "-c", BUILD]
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def setuptools_platform() -> str:
    """What setuptools calls build/lib of this Python."""
    from setuptools.command.build import build
    from setuptools.dist import Distribution

    class Compiled(Distribution):
        def has_ext_modules(self) -> bool:
            return True

    command = build(Compiled())
    command.finalize_options()
    return Path(command.build_lib).name.removeprefix("lib.")


def python_files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in (folder / "spanbert_ext").rglob("*.py")
        if path.name != "_build_config.py"
    }


def test_a_wheel_has_the_modules_of_the_source_folder_and_none_of_an_earlier_build(source: Path) -> None:
    assert len(list((source / "build").glob("lib.*"))) == 1  # the old one lay where setuptools looks
    (wheel,) = (source / "dist").glob("*.whl")
    committed = [*python_files(source), "spanbert_ext/py.typed"]
    assert len(committed) > 100
    assert check_packages.wheel_faults(check_packages.wheel_files(wheel), committed) == []
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("spanbert_ext/_C.so") == b"library\n"
        assert archive.read("spanbert_ext/_build_config.py") == b'TORCH_VERSION = "built"\n'


def test_an_sdist_has_the_sources_and_nothing_that_was_built(source: Path) -> None:
    (sdist,) = (source / "dist").glob("*.tar.gz")
    assert sdist.name == f"spanbert_ext-{__version__}.tar.gz"
    tools = {f"tools/{path.name}" for path in TOOLS.glob("*.py")}
    files = {"setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "spanbert_ext/py.typed"}
    committed = python_files(source) | tools | files
    assert check_packages.sdist_faults(check_packages.sdist_files(sdist), committed) == []


def test_a_released_wheel_is_kept_beside_the_torch_that_it_fits(source: Path) -> None:
    label = torch_label(torch.__version__, torch.version.cuda)
    (wheel,) = (source / "dist").glob("*.whl")
    assert wheel.name.startswith(f"spanbert_ext-{__version__}+{label}-cp")
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        requirements = re.findall(r"^Requires-Dist: ([^;\n]*)$", archive.read(name).decode(), re.MULTILINE)
    release = torch.__version__.partition("+")[0]
    assert [line for line in requirements if line.startswith("torch")] == [f"torch=={release}"]
    names = [re.match(r"\w+", line)[0] for line in requirements]
    assert names == ["torch", "numpy", "transformers", "accelerate"]


# --- The checks see faults -----------------------------------------------------------------------------------------

COMMITTED = ["README.md", ".ci/run", ".github/bug.md", "csrc/a.cpp", "spanbert_ext/__init__.py"]
WHEEL = [
    "spanbert_ext/__init__.py",
    "spanbert_ext/_build_config.py",
    "spanbert_ext/_C.cpython-311.so",
    "spanbert_ext-0.1.0.dist-info/METADATA",
    "spanbert_ext-0.1.0.dist-info/licenses/LICENSE",
]
SDIST = ["README.md", "csrc/a.cpp", "spanbert_ext/__init__.py", "PKG-INFO", "spanbert_ext.egg-info/PKG-INFO"]


def without(names: Iterable[str], part: str) -> list[str]:
    return [name for name in names if part not in name]


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        (WHEEL, None),
        ([*WHEEL, "spanbert_ext/gone.py"], "holds spanbert_ext/gone.py, which is not committed"),
        ([*WHEEL, "spanbert_ext.libs/libtorch_cpu.so"], "holds spanbert_ext.libs/libtorch_cpu.so"),
        ([*WHEEL, "tests/test_build.py"], "holds tests/test_build.py"),
        (without(WHEEL, "__init__"), "lacks spanbert_ext/__init__.py"),
        (without(WHEEL, "_C."), "holds 0 files spanbert_ext/_C.*, expected one"),
        ([*WHEEL, "spanbert_ext/_C.cpython-310.so"], "holds 2 files spanbert_ext/_C.*, expected one"),
        (without(WHEEL, "LICENSE"), "lacks the licence"),
    ],
)
def test_faults_of_a_wheel(files: list[str], fault: str | None) -> None:
    faults = check_packages.wheel_faults(files, COMMITTED)
    assert len(faults) == (fault is not None) and (fault or "") in "".join(faults)


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        (SDIST, None),
        ([*SDIST, "build/lib/spanbert_ext/gone.py"], "holds build/lib/spanbert_ext/gone.py"),
        ([*SDIST, "spanbert_ext/_C.cpython-311.so"], "holds spanbert_ext/_C.cpython-311.so"),
        (without(SDIST, "csrc"), "lacks csrc/a.cpp"),
    ],
)
def test_faults_of_an_sdist(files: list[str], fault: str | None) -> None:
    faults = check_packages.sdist_faults(files, COMMITTED)
    assert len(faults) == (fault is not None) and (fault or "") in "".join(faults)


def config(version: str, cuda: str, architectures: str = "") -> str:
    return (
        f'TORCH_VERSION = "{version}"\nTORCH_CUDA_VERSION = "{cuda}"\nCUDA_ARCHITECTURES = "{architectures}"\n'
        'CUDA_REASON = "nvcc was not found"\n'
    )


@pytest.mark.parametrize(
    ("label", "built", "requirement", "fault"),
    [
        ("torch2.13.0.cpu", config("2.13.0+cpu", ""), "torch==2.13.0", None),
        ("torch2.14.1.cu13", config("2.14.1+cu130", "13.0", "90"), "torch==2.14.1", None),
        ("torch2.12.0.cpu", config("2.13.0+cpu", ""), "torch==2.13.0", "its name does not say"),
        ("torch2.13.0.cpu", config("2.13.0+cpu", ""), "torch>=2.11", "does not require torch==2.13.0"),
        ("torch2.14.1.cu13", config("2.14.1+cu130", "13.0"), "torch==2.14.1", "no CUDA kernels"),
    ],
)
def test_faults_of_a_label(label: str, built: str, requirement: str, fault: str | None) -> None:
    metadata = f"Name: spanbert-ext\nRequires-Dist: {requirement}\nRequires-Dist: numpy>=1.26\n"
    faults = check_packages.label_faults(f"spanbert_ext-0.1.0+{label}-cp311-cp311.whl", built, metadata)
    assert len(faults) == (fault is not None) and (fault or "") in "".join(faults)


@pytest.mark.parametrize(
    ("platform", "symbols", "library", "fault"),
    [
        ("manylinux_2_34_x86_64", "manylinux_2_34_x86_64", "libtorch_cpu.so", None),
        ("manylinux_2_17_x86_64.manylinux2014_x86_64", "manylinux_2_17_x86_64", "libc10.so", None),
        ("manylinux_2_28_x86_64", "manylinux_2_34_x86_64", "libc10.so", "allow manylinux_2_34"),
        ("linux_x86_64", "linux_x86_64", "libc10.so", "is tagged linux_x86_64"),
        ("manylinux_2_34_x86_64", "manylinux_2_34_x86_64", "libmkl_rt.so.2", "needs libmkl_rt.so.2"),
    ],
)
def test_faults_of_a_tag(platform: str, symbols: str, library: str, fault: str | None) -> None:
    audit = {"sym_tag": symbols, "external_libs": {"libgomp.so.1": None, library: None}}
    faults = check_packages.tag_faults(f"spanbert_ext-0.1.0-cp311-cp311-{platform}.whl", audit)
    assert len(faults) == (fault is not None) and (fault or "") in "".join(faults)


def test_sdists_are_read_without_their_folder(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("text")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "README.md", "spanbert_ext-0.1.0/README.md")
    assert check_packages.sdist_files(tmp_path / "a.tar.gz") == ["README.md"]
