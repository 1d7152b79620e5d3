# SPDX-License-Identifier: Apache-2.0
"""An empty name, as a variable that is not set leaves it, is refused by every command, and not the current folder."""

import pytest

from spanbert_ext.convert.convert_cli import main as convert
from spanbert_ext.evaluate.evaluate_cli import main as evaluate
from spanbert_ext.fill.fill_cli import main as fill
from spanbert_ext.pretrain.cli import main as pretrain
from spanbert_ext.pretrain.prepare_cli import main as prepare
from spanbert_ext.pretrain.report_cli import main as report

COMMANDS = {
    "pretrain": pretrain,
    "prepare": prepare,
    "report": report,
    "fill": fill,
    "convert": convert,
    "evaluate": evaluate,
}
CALLS = [
    ("pretrain --corpus NAME --output out", "--corpus"),
    ("pretrain --output NAME", "--output"),
    ("pretrain --output out --model NAME", "--model"),
    ("pretrain --output out --tokenizer NAME", "--tokenizer"),
    ("pretrain --output out --text-field NAME", "--text-field"),
    ("pretrain --output out --cache-dir NAME", "--cache-dir"),
    ("prepare --corpus NAME --output out", "--corpus"),
    ("prepare --corpus text.txt NAME --output out", "--corpus"),
    ("prepare --corpus text.txt --output NAME", "--output"),
    ("prepare --corpus text.txt --tokenizer NAME", "--tokenizer"),
    ("prepare --corpus text.txt --text-field NAME", "--text-field"),
    ("report NAME", "DIR"),
    ("report . NAME", "DIR"),
    ("report . --output NAME", "--output"),
    ("fill NAME [MASK]", "CHECKPOINT"),
    ("fill . --file NAME", "--file"),
    ("fill . [MASK] --heat-map NAME", "--heat-map"),
    ("fill . [MASK] --tokenizer NAME", "--tokenizer"),
    ("convert NAME --output out", "SOURCE"),
    ("convert . --output NAME", "--output"),
    ("convert . --output out --vocab NAME", "--vocab"),
    ("evaluate probe . --data NAME", "--data"),
    ("evaluate probe . --data . --output NAME", "--output"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "given_as"), CALLS)
def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch, capsys, call, given_as):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("A short text.\n\nAnd another.\n")
    command, *arguments = call.split()
    assert COMMANDS[command]([argument.replace("NAME", "") for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"spanbert-{command}: error: {given_as}") and "Traceback" not in error
    assert "is empty (an unset variable?), expected" in error
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
