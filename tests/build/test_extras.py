# SPDX-License-Identifier: Apache-2.0
"""What pip installs is what the package imports, and a command without it says in one line how to get it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import spanbert_ext
from spanbert_ext.convert import convert_cli
from spanbert_ext.evaluate import evaluate_cli
from spanbert_ext.files.packages import PACKAGES, missing_packages
from spanbert_ext.fill import fill_cli
from spanbert_ext.pretrain import cli, prepare_cli, report_cli

ROOT = Path(__file__).resolve().parents[2]
IMPORTED_AS = {"scikit-learn": "sklearn"}
BROUGHT = {  # by what is required
    "": {"huggingface_hub", "psutil", "safetensors", "tokenizers", "tqdm"},
    "pretrain": {
        "pyarrow",
        "textblob",
        "zstandard",
        "compression",
    },  # all but the first where they are needed
}
ROOMS = {"fill": "plots", "pretrain": "pretrain", "evaluate": "evaluate"}

# Each command with arguments that it takes, and the extra that it needs for them.
COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], list[str], str]] = {
    "spanbert-pretrain": (cli.main, ["--corpus", "text.txt"], "pretrain"),
    "spanbert-prepare": (prepare_cli.main, ["--corpus", "text.txt"], "pretrain"),
    "spanbert-report": (report_cli.main, ["run"], ""),
    "spanbert-convert": (convert_cli.main, ["model.pt", "--output", "converted"], ""),
    "spanbert-fill": (fill_cli.main, ["model", "A [MASK].", "--heat-map", "map.png"], "plots"),
    "spanbert-evaluate": (evaluate_cli.main, ["qa", "model", "--data", "squad.json"], "evaluate"),
}


def required(extra: str) -> set[str]:
    """The names that are imported of what pyproject.toml requires for an extra, or for the library."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    name = re.escape(extra) if extra else "dependencies"
    requirements = re.search(rf"^{name} = (\[.*?\])", project, re.MULTILINE | re.DOTALL)
    names = [re.match(r"[\w-]+", text)[0] for text in ast.literal_eval(requirements[1])]
    return {IMPORTED_AS.get(name, name) for name in names}


@pytest.mark.parametrize("extra", PACKAGES)
def test_the_packages_that_are_asked_for_are_those_that_pip_installs(extra: str) -> None:
    assert {"torch", *PACKAGES[extra]} == {"torch", *required(extra)}


def test_what_is_imported_is_required() -> None:
    package = Path(spanbert_ext.__file__).parent
    library = {"spanbert_ext", "torch", *PACKAGES[""], *BROUGHT[""]} | sys.stdlib_module_names
    seen = set()
    for file in sorted(package.rglob("*.py")):
        extra = ROOMS.get(file.relative_to(package).parts[0], "")
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        roots = {name.partition(".")[0] for name in names}
        foreign = roots - library - {*PACKAGES[extra]} - BROUGHT.get(extra, set())
        assert not foreign, f"{file.relative_to(package)} imports {foreign}"
        seen |= roots
    unseen = {name for names in PACKAGES.values() for name in names} - seen
    assert unseen == {"tensorboard"}  # which transformers imports


@pytest.mark.parametrize("program", COMMANDS)
def test_a_command_names_the_extra_of_a_missing_package(
    program: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, arguments, extra = COMMANDS[program]
    monkeypatch.chdir(tmp_path)
    install = f"pip install 'spanbert-ext[{extra}]'" if extra else "pip install spanbert-ext"
    for name in (*PACKAGES[""], *PACKAGES[extra]):
        with monkeypatch.context() as hidden:
            hidden.setitem(sys.modules, name, None)
            assert main(arguments) == 2
        assert capsys.readouterr() == ("", f"{program}: error: {name} is not installed: {install}\n")
    assert list(tmp_path.iterdir()) == []


def test_several_missing_packages_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_packages("evaluate") is None
    for name in ("sklearn", "scipy", "numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    advice = "numpy, sklearn and scipy are not installed: pip install 'spanbert-ext[evaluate]'"
    assert missing_packages("evaluate") == advice


HELP = """
import contextlib, importlib, io, json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
for module in json.loads(sys.argv[2]):
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        importlib.import_module(module).main(["--help"])
    print(printed.getvalue().split()[1])
"""


def test_help_needs_torch_alone() -> None:
    hidden = {name for names in (*PACKAGES.values(), *BROUGHT.values()) for name in names} - {"numpy"}
    modules = [main.__module__ for main, _, _ in COMMANDS.values()]
    command = [sys.executable, "-c", HELP, json.dumps([*hidden]), json.dumps(modules)]
    result = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout.split() == [*COMMANDS], result.stderr
