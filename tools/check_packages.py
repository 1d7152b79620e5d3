# SPDX-License-Identifier: Apache-2.0
"""Tags a wheel for manylinux, and checks what it and an sdist hold.

  python tools/check_packages.py dist/spanbert_ext-*.tar.gz build/packages/spanbert_ext-*-linux_*.whl dist

writes the tagged wheel into dist. The sdist holds what is committed, but for the settings of the continuous
integration; the wheel the committed files of spanbert_ext/ and the compiled operators, and no library of torch.
"""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = (".ci/", ".github/", ".gitignore")  # of the sdist
WRITTEN = ("PKG-INFO", "setup.cfg", "spanbert_ext.egg-info/")  # by the build, into the sdist
BUILT = ("spanbert_ext/_build_config.py", "spanbert_ext/_C.")  # by the build, into the wheel
# In the process before the operators are opened, since torch is: a copy in the wheel would be a second one.
OF_TORCH = ("libtorch", "libc10", "libgomp", "libcudart")


def committed_files() -> list[str]:
    """The files of the repository, relative to its root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name]


def sdist_files(sdist: Path) -> list[str]:
    with tarfile.open(sdist) as archive:
        return [member.name.partition("/")[2] for member in archive if member.isfile()]


def wheel_files(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return [name for name in archive.namelist() if not name.endswith("/")]


def _difference(found: Iterable[str], expected: Iterable[str]) -> list[str]:
    found, expected = set(found), set(expected)
    faults = [f"holds {name}, which is not committed" for name in sorted(found - expected)]
    return faults + [f"lacks {name}" for name in sorted(expected - found)]


def sdist_faults(files: Iterable[str], committed: Iterable[str]) -> list[str]:
    """A line for each file too many or too few."""
    expected = [name for name in committed if not name.startswith(LEFT_OUT)]
    return _difference((name for name in files if not name.startswith(WRITTEN)), expected)


def wheel_faults(files: Iterable[str], committed: Iterable[str]) -> list[str]:
    """The same; the operators and their facts have to be there once, and the licence."""
    files = list(files)
    written = (*BUILT, *{name.partition("/")[0] for name in files if ".dist-info/" in name})
    faults = _difference(
        (name for name in files if not name.startswith(written)),
        (name for name in committed if name.startswith("spanbert_ext/")),
    )
    counts = {name: sum(file.startswith(name) for file in files) for name in BUILT}
    faults += [f"holds {count} files {name}*, expected one" for name, count in counts.items() if count != 1]
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in files):
        faults.append("lacks the licence")
    return faults


def label_faults(name: str, config: str, metadata: str) -> list[str]:
    """Whether a wheel of this name, with this _build_config.py and METADATA, is kept beside the torch that it fits."""
    built: dict[str, Any] = {}
    exec(config, built)
    torch, cuda = built["TORCH_VERSION"], built["TORCH_CUDA_VERSION"]
    label = runpy.run_path(str(ROOT / "spanbert_ext" / "_version.py"))["torch_label"](torch, cuda)
    faults = [] if f"+{label}-" in name else [f"is compiled for {label}, which its name does not say"]
    requirement = f"torch=={torch.partition('+')[0]}"
    if requirement not in re.findall(r"^Requires-Dist: (\S+)$", metadata, re.MULTILINE):
        faults.append(f"does not require {requirement}")
    if cuda and not built["CUDA_ARCHITECTURES"]:
        faults.append(f"is for torch with CUDA and has no CUDA kernels: {built['CUDA_REASON']}")
    return faults


def tag_faults(name: str, audit: dict[str, Any]) -> list[str]:
    """audit: what `auditwheel show --json` says of the wheel of this name."""
    tag = audit["sym_tag"]
    platforms = name.removesuffix(".whl").rpartition("-")[2].split(".")
    faults = []
    if tag not in platforms or not tag.startswith("manylinux_"):
        faults.append(f"is tagged {'.'.join(platforms)}, its symbols allow {tag}")
    foreign = [library for library in audit["external_libs"] if not library.startswith(OF_TORCH)]
    if foreign:
        faults.append(f"needs {', '.join(foreign)}, which torch does not bring")
    return faults


def auditwheel(*arguments: str) -> str:
    """What it prints. Its own errors end this program."""
    command = [sys.executable, "-m", "auditwheel", *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"auditwheel {' '.join(arguments)} failed, see above")
    return result.stdout


def tagged(wheel: Path, folder: Path) -> Path:
    """The wheel with the manylinux tag that its symbols allow, in `folder`."""
    excluded = [f"--exclude={name}*" for name in OF_TORCH]
    before = set(folder.glob("*.whl"))
    auditwheel("repair", *excluded, "--wheel-dir", str(folder), str(wheel))
    return next(iter(set(folder.glob("*.whl")) - before))


def main(arguments: list[str]) -> int:
    sdist, wheel, folder = map(Path, arguments)
    wheel = tagged(wheel, folder)
    committed = committed_files()
    audit = json.loads(auditwheel("show", "--json", str(wheel)))
    held = wheel_files(wheel)
    with zipfile.ZipFile(wheel) as archive:
        config = archive.read(BUILT[0]).decode()
        metadata = archive.read(next(name for name in held if name.endswith(".dist-info/METADATA"))).decode()
    faults = {
        sdist: sdist_faults(sdist_files(sdist), committed),
        wheel: [
            *wheel_faults(held, committed),
            *label_faults(wheel.name, config, metadata),
            *tag_faults(wheel.name, audit),
        ],
    }
    for package, lines in faults.items():
        print(f"{package}: {package.stat().st_size / 1e6:.1f} MB", *lines, sep="\n  ")
    print(f"  {audit['sym_tag']}, with {', '.join(sorted(audit['external_libs']))} of torch")
    return int(any(faults.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
