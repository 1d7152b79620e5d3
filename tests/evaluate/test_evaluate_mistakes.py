# SPDX-License-Identifier: Apache-2.0
"""`spanbert-evaluate`: messages for a user's mistakes, before anything is trained."""

from __future__ import annotations

import errno
import shutil
import sys

import pytest

pytest.importorskip("transformers")
pytest.importorskip("sklearn")

import fake_task
from fake_task import FakeTask, error_of, results, run
from tiny_models import one_thread  # noqa: F401

from spanbert_ext.evaluate import evaluate_cli
from spanbert_ext.evaluate.run import store
from spanbert_ext.evaluate.scores.metric import SumMetric
from spanbert_ext.evaluate.tasks import registry

# --- Mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more, message",
    [
        (["--seeds", "0"], "--seeds is 0, expected at least 1"),
        (["--processes", "0"], "--processes is 0, expected at least 1"),
        (["--epochs", "0"], "--epochs is 0.0, expected a finite number above 0"),
        (["--epochs", "inf"], "--epochs is inf, expected a finite number above 0"),
        (["--learning-rate", "nan"], "--learning-rate is nan, expected a finite number above 0"),
        (["--folds", "1"], "--folds is 1, expected from 2 to 100"),
        (["--folds", "7"], "labels: --folds is 7 but the data has 6 pages"),
        (["--only-folds", "3"], "--only-folds is 3, but labels has the folds 1 to 2"),
        (["--batch-size", "0"], "--batch-size is 0, expected from 1 to 100,000"),
        (["--noise", "nan"], "--noise is nan, expected from 0.0 to 1"),
    ],
)
def test_bad_values_are_named(fakes, capsys, more: list[str], message: str) -> None:
    assert message in error_of(capsys, *more)
    assert not FakeTask.calls


def test_wrong_places_are_named(fakes, capsys) -> None:
    assert "nothing.txt: there is no such file" in error_of(capsys, data="nothing.txt")
    assert "checkpoint ./c is not there" in error_of(capsys, checkpoints=("a", "./c"))
    (fakes / "out").mkdir()
    (fakes / "out" / "thesis.tex").write_text("years of work")
    assert "out is not empty and holds no evaluation" in error_of(capsys)
    shutil.rmtree(fakes / "out")
    (fakes / "out").write_text("")
    assert "out is a file" in error_of(capsys)


def test_what_a_command_left_that_could_not_write_is_no_obstacle(fakes, capsys, monkeypatch) -> None:
    def full(*given) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_json", full)
        assert "--output out is not writable: No space left on device" in error_of(capsys)
    (fakes / "out" / ".evaluation.json.123").write_text("{")  # of a process that was killed
    (fakes / "out" / ".lock").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(store, "run_lock", full)
        assert "--output out is not writable" in error_of(capsys)
    assert run("--seeds", "1") == 0 and len(FakeTask.calls) == 4
    (fakes / "out" / "evaluation.json").unlink()
    assert "out is not empty and holds no evaluation" in error_of(capsys)


def test_names_of_many_bytes_make_names_of_files(fakes) -> None:
    shutil.copy(fakes / "labels.txt", fakes / f"{'語' * 80}.txt")
    given = {"data": f"{'語' * 80}.txt", "checkpoints": (f"{'模' * 100}=a", "b")}
    assert run("--seeds", "1", **given) == 0 and run("--seeds", "1", **given) == 0
    assert len(FakeTask.calls) == len(results(fakes)) == 4


def test_a_checkpoint_without_a_tokenizer_is_refused_before_anything_is_trained(fakes, capsys) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (fakes / "b" / name).unlink(missing_ok=True)
    assert "b has no tokenizer (none of tokenizer.json" in error_of(capsys)
    assert not FakeTask.calls and not (fakes / "out").exists()


def test_what_cannot_be_compared_is_refused_before_anything_is_trained(fakes, capsys, monkeypatch) -> None:
    fake_task.write_labels(fakes / "labels.txt", 8)  # of two pages
    said = error_of(capsys, "--only-folds", "2")
    assert (
        "labels: the 4 answers to test are all of one of the pages (1); an interval needs two at least"
        in said
    )
    never = SumMetric("length", lambda rows: rows, lambda sums: sums[..., 0] * float("nan"))
    monkeypatch.setattr(FakeTask, "metrics", lambda self, data: {"length": never})
    said = error_of(capsys)
    assert "labels: the 8 answers to test have no score: length of a constant answer" in said
    assert said.endswith("test more folds or more data")
    assert not FakeTask.calls and not (fakes / "out").exists()


def test_a_checkpoint_that_cannot_do_its_jobs_is_refused_before_another_is_trained(fakes, capsys) -> None:
    (fakes / "data").mkdir()
    for name in ("first", "second"):
        fake_task.write_labels(fakes / "data" / f"{name}.txt")
    given = {"data": "data", "checkpoints": ("a", "unfit=b")}
    assert error_of(capsys, "--seeds", "1", **given).endswith(
        "--order is plain, but the encoder takes odd alone"
    )
    assert FakeTask.checks == [("a", ["first", "second"]), ("unfit", ["first", "second"])]
    assert not FakeTask.calls
    assert run("--seeds", "1", data="data/first.txt") == 0
    assert FakeTask.checks[2:] == [("a", ["first"]), ("b", ["first"])]
    assert run("--seeds", "1", data="data") == 0  # what is done needs no check
    assert FakeTask.checks[4:] == [("a", ["second"]), ("b", ["second"])]
    assert run("--seeds", "1", data="data") == 0 and len(FakeTask.checks) == 6


def test_a_gpu_that_is_not_there(fakes, capsys, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "--device is cuda but torch finds no usable GPU" in error_of(capsys, "--device", "cuda")


def test_without_the_extra_it_is_named(fakes, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert "sklearn is not installed: pip install 'spanbert-ext[evaluate]'" in error_of(capsys)


@pytest.mark.parametrize(
    "given, message",
    [
        (["qua", "a", "--data", "x"], "perhaps qa"),
        (["fake", "a", "--data", "x", "--epoch", "3"], "perhaps --epochs"),
        (["fake", "a", "--data", "x", "--order", "new"], "invalid choice: 'new'"),
        (["fake", "--data", "x"], "CHECKPOINT"),
        (["fake", "a"], "--data"),
    ],
)
def test_misspelt_options_are_one_line(fakes, capsys, given: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        evaluate_cli.main(given)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and message in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("task", [None, *registry.TASKS])
def test_help_explains_every_option(capsys, task: str | None) -> None:
    with pytest.raises(SystemExit) as ended:
        evaluate_cli.main(["--help"] if task is None else [task, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "spanbert-evaluate" in said and "example" in said
    parser = evaluate_cli.build_parser()
    if task is not None:
        parser = next(a for a in parser._actions if a.dest == "task").choices[task]
    for action in parser._actions:
        assert action.help, action.dest
        assert not action.option_strings or action.option_strings[-1] in said
