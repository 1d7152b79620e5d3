"""`spanbert-evaluate`: jobs that are done once, whatever ends the command, and messages for a user's mistakes."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import sys
from pathlib import Path

import fake_task
import pytest

pytest.importorskip("transformers")

import tiny_tasks
from fake_task import FakeTask
from tiny_models import one_thread  # noqa: F401

from spanbert_ext.evaluate import evaluate_cli
from spanbert_ext.evaluate.run import store
from spanbert_ext.evaluate.scores.classes import accuracy
from spanbert_ext.evaluate.scores.metric import SumMetric
from spanbert_ext.evaluate.tasks import registry


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny_tasks.save_checkpoint(folder, tiny_tasks.squad_tokenizer())
    return folder


@pytest.fixture
def folder(saved, tmp_path, monkeypatch) -> Path:
    """With checkpoints `a` and `b`, labels.txt, and the task `fake`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(registry.TASKS, "fake", fake_task.ENTRY)
    monkeypatch.setattr(FakeTask, "calls", [])
    for number, name in enumerate("ab"):
        shutil.copytree(saved, tmp_path / name)
        weights = tmp_path / name / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + bytes([number]))
    fake_task.write_labels(tmp_path / "labels.txt")
    return tmp_path


def run(
    *more: str, task: str = "fake", data: str = "labels.txt", checkpoints: tuple[str, ...] = ("a", "b")
) -> int:
    given = [task, *checkpoints, "--data", data, "--output", "out", "--device", "cpu", "--no-progress", *more]
    return evaluate_cli.main(given)


def results(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out" / "results").iterdir())


def error_of(capsys, *more: str, status: int = 2, **given) -> str:
    assert run(*more, **given) == status
    return capsys.readouterr().err.strip().splitlines()[-1]


# --- What is done -----------------------------------------------------------------------------------------------


def test_every_job_is_done_once_and_checkpoints_take_turns(folder, capsys) -> None:
    assert run("--seeds", "2") == 0
    folds = ("1 of 2", "2 of 2")
    assert FakeTask.calls == [(name, fold, seed) for seed in (0, 1) for fold in folds for name in "ab"]
    out = capsys.readouterr().out
    assert "labels: 24 answers to answer, 2 folds, 12 to train on" in out
    assert "8 jobs of 2 fine-tuning seeds; float32 on cpu" in out
    assert "labels: 24 answers of 6 pages" in out and "b - a" in out and "Page: out/report.html" in out
    assert len(results(folder)) == 8 and results(folder)[0].startswith("labels-a-1_of_2-seed0-")
    assert run("--seeds", "2") == 0 and len(FakeTask.calls) == 8
    assert "8 jobs of 2 fine-tuning seeds, 8 done before" in capsys.readouterr().out


def test_more_seeds_and_checkpoints_add_jobs(folder, capsys) -> None:
    assert run("--seeds", "1", checkpoints=("a",)) == 0
    assert run("--seeds", "2") == 0
    assert len(FakeTask.calls) == len(set(FakeTask.calls)) == 8
    assert run("--seeds", "1", "--only-folds", "2") == 0 and len(FakeTask.calls) == 8
    assert "of other checkpoints, data or options, which are not used: 6" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["weights", "option", "data", "seed of the folds"])
def test_what_is_changed_is_not_mixed(folder, change: str) -> None:
    assert run("--seeds", "1") == 0
    more: tuple[str, ...] = ()
    if change == "weights":
        weights = folder / "a" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    elif change == "option":
        more = ("--noise", "0.5")
    elif change == "data":
        fake_task.write_labels(folder / "labels.txt", 20)
    else:
        more = ("--folds", "3")
    before = len(FakeTask.calls)
    assert run("--seeds", "1", *more) == 0
    expected = {"weights": 2, "option": 4, "data": 4, "seed of the folds": 6}[change]
    assert len(FakeTask.calls) - before == expected


def test_the_same_folds_by_other_options_are_the_same_jobs(folder) -> None:
    assert run("--seeds", "1", "--max-train", "1000") == 0
    assert run("--seeds", "1") == 0 and len(FakeTask.calls) == 4
    assert run("--seeds", "1", "--max-train", "5") == 0 and len(FakeTask.calls) == 8


def test_a_folder_of_data_sets_has_a_table_for_each(folder, capsys) -> None:
    (folder / "data").mkdir()
    for name in ("first", "second"):
        fake_task.write_labels(folder / "data" / f"{name}.txt")
    assert run("--seeds", "1", data="data") == 0
    out = capsys.readouterr().out
    assert "\nfirst: 24 answers" in out and "\nsecond: 24 answers" in out
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert [data["name"] for data in summary["data"]] == ["first", "second"]


def test_summary_and_page_hold_scores_and_differences(folder) -> None:
    assert run("--seeds", "3") == 0
    summary = json.loads((folder / "out" / "summary.json").read_text())
    (comparison,) = summary["data"][0]["comparisons"]
    assert [estimate["checkpoint"] for estimate in comparison["estimates"]] == ["a", "b"]
    for estimate in comparison["estimates"]:
        rows = [
            json.loads((folder / "out" / "results" / name).read_text())["rows"]
            for name in results(folder)
            if f"-{estimate['checkpoint']}-" in name
        ]
        right = [row[0] == row[1] for one in rows for _, _, row in one]
        assert estimate["value"] == pytest.approx(100 * sum(right) / len(right))
        assert estimate["interval"]["low"] < estimate["value"] < estimate["interval"]["high"]
    assert summary["data"][0]["constant_answer"] == {"accuracy": 50.0}
    page = (folder / "out" / "report.html").read_text()
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert page.count("<svg") == 2 and "b - a" in page


def test_a_run_that_diverged_counts_and_is_named(folder, capsys) -> None:
    assert run("--seeds", "2", checkpoints=("bad=a", "b")) == 0
    assert "4 of 4 runs of bad diverged; they count as they are." in capsys.readouterr().out


def test_pretraining_seeds_are_one_system(folder, capsys) -> None:
    shutil.copytree(folder / "a", folder / "c")
    (folder / "c" / "config.json").write_text((folder / "c" / "config.json").read_text() + "\n")
    assert run("--seeds", "1", checkpoints=("system=a", "system=c", "b")) == 0
    out = capsys.readouterr().out
    assert "system (pre-training seed 2): c" in out and "b - system" in out
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["data"][0]["comparisons"][0]["estimates"][0]["seeds"] == "pre-training seeds"


def test_a_checkpoint_under_two_names_is_trained_once_and_not_separated_from_itself(folder, capsys) -> None:
    assert run("--seeds", "1", checkpoints=("x=a", "y=a")) == 0
    assert len(FakeTask.calls) == len(results(folder)) == 2
    assert "y - x       accuracy  +0.0 [+0.0, +0.0]" in capsys.readouterr().out


# --- What ends it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_what_is_finished(folder, capsys, monkeypatch, number: signal.Signals) -> None:
    whole = FakeTask.train_and_predict

    def stopped(self, *given):
        if len(FakeTask.calls) == 3:
            signal.raise_signal(number)
        return whole(self, *given)

    monkeypatch.setattr(FakeTask, "train_and_predict", stopped)
    assert run("--seeds", "2") == 128 + number
    said = capsys.readouterr().err
    assert f"Stopped by {number.name}. Results kept in out: 3." in said and "Traceback" not in said
    assert len(results(folder)) == 3 and not (folder / "out" / ".lock").exists()
    monkeypatch.setattr(FakeTask, "train_and_predict", whole)
    assert run("--seeds", "2") == 0 and len(FakeTask.calls) == len(set(FakeTask.calls)) == 8


def test_a_job_that_fails_leaves_the_others(folder, capsys, monkeypatch) -> None:
    whole = FakeTask.train_and_predict

    def failing(self, checkpoint, data, fold, options, conditions):
        if checkpoint.name == "a" and conditions.seed == 1:
            raise RuntimeError("CUDA out of memory")
        return whole(self, checkpoint, data, fold, options, conditions)

    monkeypatch.setattr(FakeTask, "train_and_predict", failing)
    assert run("--seeds", "2") == 1
    said = capsys.readouterr().err
    assert "spanbert-evaluate: error: a, seed 1: RuntimeError: CUDA out of memory" in said
    assert "2 jobs failed" in said and not (folder / "out" / "report.html").exists()
    monkeypatch.setattr(FakeTask, "train_and_predict", whole)
    assert run("--seeds", "2") == 0 and len(FakeTask.calls) == 8


def test_rows_that_are_not_the_folds_are_refused(folder, monkeypatch) -> None:
    whole = FakeTask.train_and_predict

    def short(self, *given):
        outcome = whole(self, *given)
        return type(outcome)(outcome.rows[1:])

    monkeypatch.setattr(FakeTask, "train_and_predict", short)
    with pytest.raises(ValueError, match="11 rows of 12 items in '1 of 2'"):
        run("--seeds", "1")


def test_a_damaged_result_says_what_to_do(folder, capsys) -> None:
    assert run("--seeds", "1") == 0
    damaged = folder / "out" / "results" / results(folder)[0]
    damaged.write_text(damaged.read_text()[:50])
    assert f"{damaged.name} cannot be read" in error_of(capsys, "--seeds", "2")
    assert len(FakeTask.calls) == 4  # before anything more is done
    damaged.unlink()
    assert run("--seeds", "1") == 0 and len(FakeTask.calls) == 5


def test_a_second_command_on_the_folder_is_refused(folder, capsys) -> None:
    import multiprocessing

    from spanbert_ext.files.lock import run_lock

    assert run("--seeds", "1") == 0
    ready, leave = multiprocessing.Event(), multiprocessing.Event()

    def hold() -> None:
        with run_lock(Path("out")):
            ready.set()
            leave.wait(60)

    process = multiprocessing.get_context("fork").Process(target=hold)
    process.start()
    try:
        assert ready.wait(60)
        about = (folder / "out" / "evaluation.json").read_text()
        assert "out is in use by another run" in error_of(capsys, "--seeds", "2")
        assert (folder / "out" / "evaluation.json").read_text() == about
    finally:
        leave.set()
        process.join()


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
        (["--folds", "7"], "--folds is 7 but the data has 6 pages"),
        (["--only-folds", "3"], "--only-folds is 3, but labels has the folds 1 to 2"),
        (["--batch-size", "0"], "--batch-size is 0, expected from 1 to 100,000"),
        (["--noise", "nan"], "--noise is nan, expected from 0.0 to 1"),
    ],
)
def test_bad_values_are_named(folder, capsys, more: list[str], message: str) -> None:
    assert message in error_of(capsys, *more)
    assert not FakeTask.calls


def test_wrong_places_are_named(folder, capsys) -> None:
    assert "nothing.txt: there is no such file" in error_of(capsys, data="nothing.txt")
    assert "checkpoint ./c is not there" in error_of(capsys, checkpoints=("a", "./c"))
    (folder / "out").mkdir()
    (folder / "out" / "thesis.tex").write_text("years of work")
    assert "out is not empty and holds no evaluation" in error_of(capsys)
    shutil.rmtree(folder / "out")
    (folder / "out").write_text("")
    assert "out is a file" in error_of(capsys)


def test_what_a_command_left_that_could_not_write_is_no_obstacle(folder, capsys, monkeypatch) -> None:
    def full(*given) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_json", full)
        assert "--output out is not writable: No space left on device" in error_of(capsys)
    (folder / "out" / ".evaluation.json.123").write_text("{")  # of a process that was killed
    (folder / "out" / ".lock").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(store, "run_lock", full)
        assert "--output out is not writable" in error_of(capsys)
    assert run("--seeds", "1") == 0 and len(FakeTask.calls) == 4
    (folder / "out" / "evaluation.json").unlink()
    assert "out is not empty and holds no evaluation" in error_of(capsys)


def test_names_of_many_bytes_make_names_of_files(folder) -> None:
    shutil.copy(folder / "labels.txt", folder / f"{'語' * 80}.txt")
    given = {"data": f"{'語' * 80}.txt", "checkpoints": (f"{'模' * 100}=a", "b")}
    assert run("--seeds", "1", **given) == 0 and run("--seeds", "1", **given) == 0
    assert len(FakeTask.calls) == len(results(folder)) == 4


def test_a_checkpoint_without_a_tokenizer_is_refused_before_anything_is_trained(folder, capsys) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / "b" / name).unlink(missing_ok=True)
    assert "b has no tokenizer (none of tokenizer.json" in error_of(capsys)
    assert not FakeTask.calls and not (folder / "out").exists()


def test_what_cannot_be_compared_is_refused_before_anything_is_trained(folder, capsys, monkeypatch) -> None:
    fake_task.write_labels(folder / "labels.txt", 8)  # of two pages
    said = error_of(capsys, "--only-folds", "2")
    assert (
        "labels: the 4 answers to test are all of one of the pages (1); an interval needs two at least"
        in said
    )
    never = SumMetric("length", lambda rows: rows, lambda sums: sums[..., 0] * float("nan"))
    monkeypatch.setattr(FakeTask, "metrics", lambda self, data: {"accuracy": accuracy(), "length": never})
    assert "labels: the 8 answers to test have no length: test more folds" in error_of(capsys)
    assert not FakeTask.calls and not (folder / "out").exists()


def test_a_gpu_that_is_not_there(folder, capsys, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "--device is cuda but torch finds no usable GPU" in error_of(capsys, "--device", "cuda")


def test_without_the_extra_it_is_named(folder, capsys, monkeypatch) -> None:
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
def test_misspelt_options_are_one_line(folder, capsys, given: list[str], message: str) -> None:
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
