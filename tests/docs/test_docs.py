# SPDX-License-Identifier: Apache-2.0
"""README and the documentation are true: Python runs and prints what they show, commands parse, names exist."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import io
import linecache
import re
import warnings
from pathlib import Path

import pytest
from pages import DOCS, README, Block, blocks, commands, pages
from signatures import with_signatures
from tiny_models import forgotten, one_thread  # noqa: F401
from workplace import make_workplace

import spanbert_ext

ROOT = DOCS.parent
COMMANDS = {
    "spanbert-pretrain": "spanbert_ext.pretrain.cli",
    "spanbert-prepare": "spanbert_ext.pretrain.prepare_cli",
    "spanbert-report": "spanbert_ext.pretrain.report_cli",
    "spanbert-evaluate": "spanbert_ext.evaluate.evaluate_cli",
    "spanbert-fill": "spanbert_ext.fill.fill_cli",
    "spanbert-convert": "spanbert_ext.convert.convert_cli",
}
OTHER_PROGRAMS = {"git", "cd", "make", "pip", "python", "python3", "nvcc"}
OTHER_PROGRAMS |= {"torchrun", "accelerate", "tensorboard", "export"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT).with_suffix(""))


def with_python() -> list[Path]:
    return [path for path in pages() if any(block.language == "python" for block in blocks(path))]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small ones of everything that the pages name: `bert-base-cased`, `notes`, `my-spanbert`, ..."""
    folder = tmp_path_factory.mktemp("workplace")
    make_workplace(folder)
    return folder


# --- Python ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", with_python(), ids=named)
def test_python_runs_and_prints_what_is_shown(path: Path, workplace: Path, monkeypatch) -> None:
    monkeypatch.chdir(workplace)
    names: dict[str, object] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(path):
        if block.language == "python":
            assert not printed.strip(), f"{path}: what the block before line {block.line} prints is not shown"
            ast.parse(block.text)
            printed = "" if block.not_run else run(block, path, names)
        elif block.language == "text" and block.follows and not block.not_run:
            expected = block.text.replace("\n...\n", "\n...").replace("\n\n", "\n<BLANKLINE>\n")
            same = doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS)
            assert same, f"{path}, line {block.line}: shown is\n{block.text}\nprinted is\n{printed}"
            printed = ""
    if path != README:  # it has no room for what Trainer says at the end
        assert not printed.strip(), f"{path}: what the last block prints is not shown"


def run(block: Block, path: Path, names: dict[str, object]) -> str:
    """What a block prints; its names are those of the blocks before it."""
    source = f"<{named(path)}, line {block.line}>"
    linecache.cache[source] = (len(block.text), None, block.text.splitlines(keepends=True), source)
    output = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(output):
        warnings.simplefilter("ignore")  # of libraries; what this package warns of names the block
        warnings.filterwarnings("error", category=UserWarning, module="__main__")
        exec(compile(block.text, source, "exec"), names)
    return output.getvalue()


# --- Commands ----------------------------------------------------------------------------------------------------


def shell_lines() -> list[tuple[Path, list[str]]]:
    return [
        (path, line)
        for path in pages()
        for block in blocks(path)
        if block.language in ("bash", "console")
        for line in commands(block)
    ]


@pytest.mark.parametrize(("path", "line"), shell_lines(), ids=lambda x: None)
def test_commands_parse(path: Path, line: list[str], capsys) -> None:
    """Those of this package by their own parsers: an option that is not there ends them."""
    program = next((part for part in line if "=" not in part or part.startswith("-")), line[0])
    where = line.index(program)
    arguments = line[where + 1 :]
    module = next((name for name in COMMANDS.values() if name in arguments), None)
    if module is not None:  # torchrun -m MODULE
        arguments = arguments[arguments.index(module) + 1 :]
    elif program in COMMANDS:
        module = COMMANDS[program]
    else:
        assert program in OTHER_PROGRAMS, line
        scripts = [part for part in arguments if part.endswith((".py", ".sh"))]
        assert all((ROOT / script).is_file() for script in scripts), line
        return
    if "..." in arguments:
        arguments = [part for part in arguments if part != "..."]
    for sign in (">", "|", "<"):
        if sign in arguments:
            arguments = arguments[: arguments.index(sign)]
    try:
        importlib.import_module(module).build_parser().parse_args(arguments)
    except SystemExit as end:  # --help, or a mistake
        assert end.code == 0, f"{path}: {line}: {capsys.readouterr().err}"


QUICK = ("spanbert-fill", "spanbert-convert")


def with_quick_commands() -> list[Path]:
    return [*dict.fromkeys(path for path, line in shell_lines() if line[0] in QUICK)]


@pytest.mark.parametrize("path", with_quick_commands(), ids=named)
def test_commands_that_take_a_second_run(path: Path, workplace: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(workplace)
    for page, line in shell_lines():
        if page != path or line[0] not in QUICK or "--interactive" in line or ">" in line:
            continue
        status = importlib.import_module(COMMANDS[line[0]]).main(line[1:])
        printed = capsys.readouterr()
        assert status == 0 and printed.out, f"{path}: {line}: {printed.err}"


# --- Names and messages ------------------------------------------------------------------------------------------


def public_names() -> list[str]:
    names = [name for name in spanbert_ext.__all__ if name not in ("ops", "reference")]
    names += [f"ops.{name}" for name in spanbert_ext.ops.__all__]
    return names + [f"reference.{name}" for name in spanbert_ext.reference.__all__]


@pytest.mark.parametrize("name", public_names())
def test_every_public_name_is_described_and_used_in_an_example(name: str) -> None:
    described = re.compile(rf"^\.\. auto(class|function):: spanbert_ext\.{re.escape(name)}(\(|$)", re.M)
    used = re.compile(rf"(?<![\w.]){re.escape(name)}\b")
    for path in (DOCS / "api").glob("*.md"):
        found = blocks(path)
        for number, block in enumerate(found):
            if block.language == "{eval-rst}" and described.search(block.text):
                examples = [x.text for x in found[number + 1 :] if x.language == "python"]
                assert examples and used.search(examples[0]), (
                    f"{path}: the example after {name} does not use it"
                )
                return
    pytest.fail(f"docs/api describes no {name}")


@pytest.mark.parametrize("path", sorted((DOCS / "api").glob("*.md")), ids=named)
def test_signatures_that_the_pages_of_the_api_print_are_those_of_the_package(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert page == with_signatures(page), "python tests/docs/signatures.py"


def package_texts() -> str:
    """All string constants of the package and of its build, those that are written in parts in one piece."""
    texts = []
    files = [*(ROOT / "spanbert_ext").rglob("*.py"), *(ROOT / "tools").glob("*.py"), ROOT / "setup.py"]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (x.value if isinstance(x, ast.Constant) else "\0" for x in node.values)
                texts.append("".join(map(str, parts)))
    return "\n".join(texts)


def test_messages_that_troubleshooting_names_are_those_of_the_package() -> None:
    text = (DOCS / "guides" / "troubleshooting.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### `(.+)`$", text, re.M)
    assert len(headings) >= 25
    said = package_texts()
    for heading in headings:
        for part in filter(None, (part.strip() for part in heading.split("…"))):
            assert part in said, f"no message has {part!r}"


def test_every_benchmarked_device_has_its_page() -> None:
    """A page of docs/benchmarks for each folder of results, which includes the README there."""
    shown = [path.read_text(encoding="utf-8") for path in (DOCS / "benchmarks").glob("*.md")]
    for readme in (ROOT / "benchmarks" / "results").glob("*/README.md"):
        name = f"benchmarks/results/{readme.parent.name}/README.md"
        assert any(name in text for text in shown), f"docs/benchmarks has no page that includes {name}"


def test_no_page_is_left_out_of_the_contents() -> None:
    listed = {README, DOCS / "index.md"}
    for path in pages():
        for block in blocks(path):
            if block.language == "{toctree}":
                lines = [line.strip() for line in block.text.splitlines() if not line.startswith(":")]
                listed |= {(path.parent / f"{line}.md").resolve() for line in lines if line}
    assert listed == set(pages())
