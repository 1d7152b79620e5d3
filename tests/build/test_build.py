# SPDX-License-Identifier: Apache-2.0
"""The build: versions are checked before the library is opened, the right torch is found, imports stay light."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import cuda_code
import pytest
import torch

import spanbert_ext
from spanbert_ext import _library, build_info

ROOT = Path(__file__).resolve().parents[2]


def run_python(code: str, arguments: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=Path(__file__).parent,  # not the source folder: the package may be installed elsewhere
        capture_output=True,
        text=True,
        timeout=120,
    )


def copy_package(folder: Path) -> Path:
    """The package's Python files in `folder`, with a library that cannot be opened."""
    package, copy = Path(spanbert_ext.__file__).parent, folder / "spanbert_ext"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("_C.*", "__pycache__"))
    library = next(package.glob("_C.*"))
    (copy / library.name).write_text("not a library")
    return copy


IMPORT_EACH = """
import importlib, json, sys
messages = {}
for name, folder in json.loads(sys.argv[1]).items():
    sys.path.insert(0, folder)
    try:
        import spanbert_ext
    except ImportError as error:
        messages[name] = str(error)
    sys.path.remove(folder)
    for module in [module for module in sys.modules if module.partition(".")[0] == "spanbert_ext"]:
        del sys.modules[module]
    importlib.invalidate_caches()
print(json.dumps(messages))
"""


@pytest.fixture(scope="module")
def import_errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the import of each faulty copy says: one process, in which none gets as far as a library."""
    folder = tmp_path_factory.mktemp("copies")
    replace_in_config(copy_package(folder / "another torch"), "TORCH_VERSION", "2.0.1+cpu")
    replace_in_config(copy_package(folder / "another Python"), "PYTHON_VERSION", "3.9")
    copy_package(folder / "no library in the file")
    (copy_package(folder / "no configuration") / "_build_config.py").unlink()
    for file in copy_package(folder / "no library").glob("_C.*"):
        file.unlink()
    folders = {path.name: str(path) for path in folder.iterdir()}
    result = run_python(IMPORT_EACH, arguments=[json.dumps(folders)])
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def replace_in_config(package: Path, name: str, value: str) -> None:
    config = package / "_build_config.py"
    text, count = re.subn(rf'^{name} = ".*?"', f'{name} = "{value}"', config.read_text(), flags=re.MULTILINE)
    assert count == 1
    config.write_text(text)


# --- The library is opened only where it fits --------------------------------------------------------------------


def test_built_for_another_torch_is_refused_before_the_library_is_opened(
    import_errors: dict[str, str],
) -> None:
    message = import_errors["another torch"]
    assert "compiled for torch 2.0.1+cpu" in message
    assert f"this is torch {torch.__version__}" in message
    assert "pip install --force-reinstall --no-deps ." in message


def test_built_for_another_python_is_refused_before_the_library_is_opened(
    import_errors: dict[str, str],
) -> None:
    present = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    assert f"compiled for Python 3.9, but this is {present}" in import_errors["another Python"]


def test_a_library_that_does_not_load_says_how_to_rebuild(import_errors: dict[str, str]) -> None:
    message = import_errors["no library in the file"]
    assert message.startswith("spanbert_ext's operators do not load")
    assert "pip install --force-reinstall" in message


@pytest.mark.parametrize("missing", ["no configuration", "no library"])
def test_a_missing_build_says_how_to_install(import_errors: dict[str, str], missing: str) -> None:
    assert "pip install" in import_errors[missing]


@pytest.mark.parametrize(
    ("built", "present", "fits"),
    [
        (("2.13.0+cpu", ""), ("2.13.0+cpu", None), True),
        (("2.13.0", ""), ("2.13.0+cpu", None), True),  # the same release, packed by another index
        (("2.14.1+cu130", "13.0"), ("2.14.1+cu131", "13.1"), True),  # a minor CUDA version is compatible
        (("2.13.0+cpu", ""), ("2.13.1+cpu", None), False),
        (("2.13.0", ""), ("2.14.0", None), False),
        (("2.14.0.dev20260701", ""), ("2.14.0", None), False),
        (("2.14.1+cu128", "12.8"), ("2.14.1+cu130", "13.0"), False),
        (("2.14.1+cpu", ""), ("2.14.1+cu130", "13.0"), False),
        (("2.14.1+cu130", "13.0"), ("2.14.1+cpu", None), False),
    ],
)
def test_release_and_cuda_major_must_agree(
    built: tuple[str, str], present: tuple[str, str | None], fits: bool
) -> None:
    config = SimpleNamespace(PYTHON_VERSION="3.11", TORCH_VERSION=built[0], TORCH_CUDA_VERSION=built[1])
    if fits:
        _library._check_versions(config, "3.11", *present)
        return
    with pytest.raises(ImportError, match="were compiled for torch") as error:
        _library._check_versions(config, "3.11", *present)
    assert built[0] in str(error.value) and present[0] in str(error.value)
    assert "-cp311-*.whl. Where there is none: Rebuild them" in str(error.value)


@pytest.mark.parametrize(
    ("python", "torch_version", "cuda", "label"),
    [
        ("3.11", "2.14.1+cu130", "13.0", "torch2.14.1.cu13-cp311"),
        ("3.11", "2.14.1", None, "torch2.14.1.cpu-cp311"),
        ("3.12", "2.13.0+cpu", None, "torch2.13.0.cpu-cp312"),
    ],
)
def test_a_library_that_does_not_fit_names_the_wheel_that_does(
    python: str, torch_version: str, cuda: str | None, label: str
) -> None:
    config = SimpleNamespace(PYTHON_VERSION="3.11", TORCH_VERSION="2.13.0+cpu", TORCH_CUDA_VERSION="")
    wheel = re.escape(f"spanbert_ext-{spanbert_ext.__version__}+{label}-*.whl")
    with pytest.raises(ImportError, match=wheel):
        _library._check_versions(config, python, torch_version, cuda)


def test_windows_is_refused_with_a_message() -> None:
    result = run_python("import sys; sys.platform = 'win32'; import spanbert_ext")
    assert "ImportError: spanbert_ext runs on Linux and macOS" in result.stderr


# --- Code for newer CPUs stays where the dispatch keeps it -------------------------------------------------------


def leaked_weak_symbols(nm_output: str, capability: str) -> list[str]:
    """Weak symbols that another object file may define too: the linker keeps any one of them for all callers."""
    weak = [line.split()[-1] for line in nm_output.splitlines() if re.search(r" [WVu] ", line)]
    return [name for name in weak if capability not in name]


def kernel_objects(capability: str) -> list[Path]:
    build = ROOT / "build" / f"{sys.implementation.cache_tag}-torch-{torch.__version__}"
    return sorted(build.glob(f"CMakeFiles/cpu_kernels_{capability}.dir/**/*.o"))


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_objects_for_newer_cpus_share_no_weak_symbol(capability: str) -> None:
    objects = kernel_objects(capability)
    if not objects or shutil.which("nm") is None:
        pytest.skip("the object files were built elsewhere, or are for another processor, or nm is missing")
    for file in objects:
        output = subprocess.run(["nm", file], capture_output=True, text=True, check=True).stdout
        assert leaked_weak_symbols(output, capability) == [], file


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_initialisers_of_newer_cpus_objects_run_on_every_cpu(capability: str) -> None:
    """The loader runs a file's static initialisers whatever the dispatch chooses later."""
    objects = kernel_objects(capability)
    if not objects or shutil.which("objdump") is None:
        pytest.skip(
            "the object files were built elsewhere, or are for another processor, or objdump is missing"
        )
    for file in objects:
        command = ["objdump", "--disassemble", "--no-show-raw-insn", "--section=.text.startup", file]
        output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        assert re.findall(r"^.*\tv[a-z0-9]+ .*$", output, re.MULTILINE) == [], file


def test_the_symbol_check_sees_a_leak() -> None:
    output = """
0000000000000000 W _ZN12spanbert_ext6AVX5123expEPf
0000000000000000 W _ZSt4sqrtf
                 U malloc
0000000000000000 t local
"""
    assert leaked_weak_symbols(output, "AVX512") == ["_ZSt4sqrtf"]


# --- What the build says about itself ----------------------------------------------------------------------------


def test_build_info_names_versions_capability_and_the_reason_without_cuda() -> None:
    info = build_info()
    assert info["spanbert_ext"] == spanbert_ext.__version__ == "0.1.0"
    assert info["torch"] == torch.__version__
    assert info["cpu_capability"] in str(info["cpu_capabilities"]).split()
    assert info["cuda_kernels"] is (info["cuda_reason"] == "")
    assert bool(info["cuda_architectures"]) is info["cuda_kernels"]


def test_python_m_spanbert_ext_prints_build_info() -> None:
    result = run_python("import runpy; runpy.run_module('spanbert_ext', run_name='__main__')")
    assert result.returncode == 0, result.stderr
    printed = dict(re.match(r"(\w+) *(.*)", line).groups() for line in result.stdout.splitlines())
    assert printed == {name: str(value) for name, value in build_info().items()}


ASK_EACH = """
import os, sys, torch
for asked in sys.argv[1].split(","):
    reading, writing = os.pipe()
    if os.fork() == 0:  # torch is there already, the package is not: it chooses in each child
        os.environ["SPANBERT_EXT_CPU_CAPABILITY"] = asked
        try:
            import spanbert_ext
            answer = spanbert_ext.build_info()["cpu_capability"]
        except BaseException as error:
            answer = repr(error)
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    print(os.fdopen(reading).read(), flush=True)
    os.wait()
"""


def test_cpu_capability_is_lowered_and_never_raised_and_an_unknown_one_is_an_error() -> None:
    order = ["default", "avx2", "avx512"]
    result = run_python(ASK_EACH, arguments=[",".join(["", *order, "sse9"])])
    assert result.returncode == 0, result.stderr
    best, *used, unknown = result.stdout.splitlines()
    assert best in str(build_info()["cpu_capabilities"]).split()
    assert used == [min(asked, best, key=order.index) for asked in order]
    assert "SPANBERT_EXT_CPU_CAPABILITY is 'sse9'; expected default, avx2 or avx512" in unknown


# --- Public names ------------------------------------------------------------------------------------------------


def test_importing_the_package_needs_torch_alone() -> None:
    code = """
import sys, torch
before = set(sys.modules)
import spanbert_ext
dir(spanbert_ext)
spanbert_ext.ops, spanbert_ext.reference, spanbert_ext.SpanMasker, spanbert_ext.SpanBoundaryHead
heavy = {"transformers", "tokenizers", "datasets", "accelerate", "tensorboard", "matplotlib"}
print(sorted(heavy & {name.partition(".")[0] for name in set(sys.modules) - before}))
"""
    result = run_python(code)
    assert result.stdout.strip() == "[]", result.stderr


# From the bottom up; `ops` and `reference` take the same place.
LAYERS = (
    ("_version",),
    ("files", "pages"),
    ("_build_config", "_C"),
    ("_library",),
    ("ops", "reference"),
    ("masking",),
    ("models",),
)
LAYERS += (("convert",), ("fill", "pretrain", "evaluate"), ("__init__",), ("__main__",))
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}


def imported_parts(file: Path) -> set[str]:
    """The parts of the package that a file imports, at its top or in a function."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "spanbert_ext":
            modules |= {f"spanbert_ext.{name.name}" for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
    parts = {module.split(".")[1] for module in modules if module.startswith("spanbert_ext.")}
    return {part if part in HEIGHT else "__init__" for part in parts}


def test_nothing_imports_what_stands_above_it() -> None:
    package = Path(spanbert_ext.__file__).parent
    files = sorted(package.rglob("*.py"))
    for file in files:
        part = file.relative_to(package).parts[0].removesuffix(".py")
        too_high = {name for name in imported_parts(file) if HEIGHT[name] > HEIGHT[part]}
        assert not too_high, f"{file.relative_to(package)} imports {too_high}"
    assert len(files) > 30


# The rooms of the two programs, from the bottom up; the commands stand on top.
FLOORS = {
    "pretrain": (("text", "settings"), ("rows",), ("prepare",), ("run",), ("report",)),
    "evaluate": (("data",), ("scores",), ("statistics",), ("tasks",), ("run",), ("report",)),
}


@pytest.mark.parametrize("program", FLOORS)
def test_the_rooms_of_a_program_import_those_below_them(program: str) -> None:
    floors = {name: floor for floor, names in enumerate(FLOORS[program]) for name in names}
    package = Path(spanbert_ext.__file__).parent / program
    rooms = {path.name for path in package.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == floors.keys()
    for room in rooms:
        for file in (package / room).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            imports = rf"^\s*(?:from|import) spanbert_ext\.{program}(?: import|\.)\s*(\w+)"
            found = set(re.findall(imports, text, re.MULTILINE))
            too_high = {name for name in found - {room} if floors.get(name, 99) >= floors[room]}
            assert not too_high, f"{file.relative_to(package)} imports {too_high}"


def test_a_program_imports_nothing_of_another() -> None:
    package = Path(spanbert_ext.__file__).parent
    programs = ("fill", "pretrain", "evaluate")
    for program in programs:
        files = sorted((package / program).rglob("*.py"))
        for file in files:
            others = imported_parts(file) & {*programs} - {program}
            assert not others, f"{file.relative_to(package)} imports {others}"
        assert len(files) > 8


def test_readers_are_plain_python() -> None:
    package = Path(spanbert_ext.__file__).parent / "evaluate" / "data"
    for file in package.glob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        names = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
        names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        foreign = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"spanbert_ext"}
        assert not foreign, f"{file.relative_to(package)} imports {foreign}"


@pytest.mark.parametrize("name", spanbert_ext.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(spanbert_ext, name) is not None
    assert name in dir(spanbert_ext)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="SpanMaskre"):
        spanbert_ext.SpanMaskre  # noqa: B018


def test_the_package_is_marked_as_typed() -> None:
    assert Path(spanbert_ext.__file__).with_name("py.typed").is_file()


# --- CUDA tests do not vanish ------------------------------------------------------------------------------------


def test_a_missing_gpu_skips_with_its_reason_or_fails_when_one_is_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    item = SimpleNamespace(get_closest_marker=lambda name: name == "needs_cuda" or None)
    monkeypatch.setattr(cuda_code, "missing_cuda", lambda: "no GPU here")
    monkeypatch.delenv("SPANBERT_EXT_REQUIRE_CUDA", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no GPU here"):
        cuda_code.skip_without_cuda(item)
    monkeypatch.setenv("SPANBERT_EXT_REQUIRE_CUDA", "1")
    with pytest.raises(pytest.fail.Exception, match="no GPU here"):
        cuda_code.skip_without_cuda(item)
    monkeypatch.setattr(cuda_code, "missing_cuda", lambda: None)
    cuda_code.skip_without_cuda(item)
