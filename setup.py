# SPDX-License-Identifier: Apache-2.0
"""Runs CMake, which is the build; everything else about the package is in pyproject.toml."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.egg_info import egg_info

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

from installed_torch import find_torch  # noqa: E402


def find_tool(name: str) -> str:
    """`name` on the PATH, or beside the interpreter of an environment that is not activated."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise SystemExit(f"building spanbert-ext needs {name}: pip install {name}")
    return found


class CMakeBuild(build_ext):
    """Compiles in `build/PYTHON-torch-VERSION[-OPTION]`, installs `_C` and `_build_config.py` into the package."""

    def run(self) -> None:
        if sys.platform == "win32":
            raise SystemExit("spanbert-ext builds on Linux and macOS; on Windows use WSL")
        torch = find_torch()
        if torch is None:
            raise SystemExit("spanbert-ext found no torch to build against: pip install torch first")
        options = {name: os.environ.get(f"SPANBERT_EXT_{name}", "OFF") for name in ("SANITIZE", "TUNING")}
        chosen = [f"-{name.lower()}" for name, value in options.items() if value == "ON"]
        build = ROOT / "build" / f"{sys.implementation.cache_tag}-torch-{torch.version}{''.join(chosen)}"
        configure = [
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DSPANBERT_EXT_TORCH_DIR={torch.folder}",
            f"-DSPANBERT_EXT_CUDA={os.environ.get('SPANBERT_EXT_CUDA', 'AUTO')}",
            *(f"-DSPANBERT_EXT_{name}={value}" for name, value in options.items()),
            f"-DSPANBERT_EXT_WERROR={os.environ.get('SPANBERT_EXT_WERROR', 'OFF')}",
            # A kept build folder remembers the ninja of an isolated environment that is gone.
            f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}",
        ]
        cmake = find_tool("cmake")
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        target = ROOT if self.inplace else Path(self.build_lib).resolve()
        # Paths of the sources do not count: an unpacked sdist finds what its checkout compiled.
        environment = {"CCACHE_BASEDIR": str(ROOT / "csrc"), **os.environ}
        for command in (
            [cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *configure],
            [cmake, "--build", str(build), "--parallel", jobs],
            [cmake, "--install", str(build), "--prefix", str(target)],
        ):
            if subprocess.call(command, env=environment) != 0:
                raise SystemExit(f"building spanbert-ext failed, see above: {' '.join(command)}")


class BuildAnew(build):
    """Packs what the source folder holds now: modules of an earlier build would be packed with it."""

    def run(self) -> None:
        shutil.rmtree(Path(self.build_lib, "spanbert_ext"), ignore_errors=True)
        super().run()


class Metadata(egg_info):
    """With SPANBERT_EXT_RELEASE=ON a wheel says in its version and its requirements which torch it was compiled for, so
    that pip keeps the two together."""

    def finalize_options(self) -> None:
        if os.environ.get("SPANBERT_EXT_RELEASE") == "ON":
            torch = find_torch()
            if torch is None:
                raise SystemExit("SPANBERT_EXT_RELEASE=ON names the torch of the build, and there is none")
            label = runpy.run_path(str(ROOT / "spanbert_ext" / "_version.py"))["torch_label"]
            self.tag_build = f"+{label(torch.version, torch.cuda)}"
            this_torch = f"torch=={torch.version.partition('+')[0]}"
            requirements = [
                this_torch if re.match(r"torch\b", requirement) else requirement
                for requirement in self.distribution.install_requires
            ]
            self.distribution.install_requires = self.distribution.metadata.install_requires = requirements
        super().finalize_options()

    def find_sources(self) -> None:
        """Without the list of an earlier build, whose files would be packed as long as they exist."""
        Path(self.egg_info, "SOURCES.txt").unlink(missing_ok=True)
        super().find_sources()


# The extension has no sources: it makes setuptools run `build_ext` and tag the wheel for this platform.
setup(
    ext_modules=[Extension("spanbert_ext._C", sources=[])],
    cmdclass={"build": BuildAnew, "build_ext": CMakeBuild, "egg_info": Metadata},
)
