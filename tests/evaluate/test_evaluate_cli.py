# SPDX-License-Identifier: Apache-2.0
"""`spanbert-evaluate`: jobs that are done once, whatever ends the command, and what it tells of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("sklearn")

import fake_task
from fake_task import FakeTask, error_of, results, run
from tiny_models import one_thread  # noqa: F401

from spanbert_ext.evaluate.scores.classes import accuracy

# --- What is done -----------------------------------------------------------------------------------------------


def test_every_job_is_done_once_and_checkpoints_take_turns(fakes, capsys) -> None:
    assert run("--seeds", "2") == 0
    folds = ("1 of 2", "2 of 2")
    assert FakeTask.calls == [(name, fold, seed) for seed in (0, 1) for fold in folds for name in "ab"]
    out = capsys.readouterr().out
    assert "labels: 24 answers to answer, 2 folds, 12 to train on" in out
    assert "8 jobs of 2 fine-tuning seeds; float32 on cpu" in out
    assert "labels: 24 answers of 6 pages" in out and "b - a" in out and "Page: out/report.html" in out
    assert len(results(fakes)) == 8 and results(fakes)[0].startswith("labels-a-1_of_2-seed0-")
    assert run("--seeds", "2") == 0 and len(FakeTask.calls) == 8
    assert "8 jobs of 2 fine-tuning seeds, 8 done before" in capsys.readouterr().out


def test_more_seeds_and_checkpoints_add_jobs(fakes, capsys) -> None:
    assert run("--seeds", "1", checkpoints=("a",)) == 0
    assert run("--seeds", "2") == 0
    assert len(FakeTask.calls) == len(set(FakeTask.calls)) == 8
    assert run("--seeds", "1", "--only-folds", "2") == 0 and len(FakeTask.calls) == 8
    assert "of other checkpoints, data or options, which are not used: 6" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["weights", "option", "data", "seed of the folds"])
def test_what_is_changed_is_not_mixed(fakes, change: str) -> None:
    assert run("--seeds", "1") == 0
    more: tuple[str, ...] = ()
    if change == "weights":
        weights = fakes / "a" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    elif change == "option":
        more = ("--noise", "0.5")
    elif change == "data":
        fake_task.write_labels(fakes / "labels.txt", 20)
    else:
        more = ("--folds", "3")
    before = len(FakeTask.calls)
    assert run("--seeds", "1", *more) == 0
    expected = {"weights": 2, "option": 4, "data": 4, "seed of the folds": 6}[change]
    assert len(FakeTask.calls) - before == expected


def test_the_same_folds_by_other_options_are_the_same_jobs(fakes) -> None:
    assert run("--seeds", "1", "--max-train", "1000") == 0
    assert run("--seeds", "1") == 0 and len(FakeTask.calls) == 4
    assert run("--seeds", "1", "--max-train", "5") == 0 and len(FakeTask.calls) == 8


def test_a_folder_of_data_sets_has_a_table_for_each(fakes, capsys) -> None:
    (fakes / "data").mkdir()
    for name in ("first", "second"):
        fake_task.write_labels(fakes / "data" / f"{name}.txt")
    assert run("--seeds", "1", data="data") == 0
    out = capsys.readouterr().out
    assert "\nfirst: 24 answers" in out and "\nsecond: 24 answers" in out
    summary = json.loads((fakes / "out" / "summary.json").read_text())
    assert [data["name"] for data in summary["data"]] == ["first", "second"]


def test_summary_and_page_hold_scores_and_differences(fakes) -> None:
    assert run("--seeds", "3") == 0
    summary = json.loads((fakes / "out" / "summary.json").read_text())
    (comparison,) = summary["data"][0]["comparisons"]
    assert [estimate["checkpoint"] for estimate in comparison["estimates"]] == ["a", "b"]
    for estimate in comparison["estimates"]:
        rows = [
            json.loads((fakes / "out" / "results" / name).read_text())["rows"]
            for name in results(fakes)
            if f"-{estimate['checkpoint']}-" in name
        ]
        right = [row[0] == row[1] for one in rows for _, _, row in one]
        assert estimate["value"] == pytest.approx(100 * sum(right) / len(right))
        assert estimate["interval"]["low"] < estimate["value"] < estimate["interval"]["high"]
    assert summary["data"][0]["constant_answer"] == {"accuracy": 50.0}
    page = (fakes / "out" / "report.html").read_text()
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert page.count("<svg") == 2 and "b - a" in page


def test_a_run_that_diverged_counts_and_is_named(fakes, capsys) -> None:
    assert run("--seeds", "2", checkpoints=("bad=a", "b")) == 0
    assert "4 of 4 runs of bad diverged; they count as they are." in capsys.readouterr().out


def test_pretraining_seeds_are_one_system(fakes, capsys) -> None:
    shutil.copytree(fakes / "a", fakes / "c")
    (fakes / "c" / "config.json").write_text((fakes / "c" / "config.json").read_text() + "\n")
    assert run("--seeds", "1", checkpoints=("system=a", "system=c", "b")) == 0
    out = capsys.readouterr().out
    assert "system (pre-training seed 2): c" in out and "b - system" in out
    summary = json.loads((fakes / "out" / "summary.json").read_text())
    assert summary["data"][0]["comparisons"][0]["estimates"][0]["seeds"] == "pre-training seeds"


def test_a_checkpoint_under_two_names_is_trained_once_and_not_separated_from_itself(fakes, capsys) -> None:
    assert run("--seeds", "1", checkpoints=("x=a", "y=a")) == 0
    assert len(FakeTask.calls) == len(results(fakes)) == 2
    assert "y - x       accuracy  +0.0 [+0.0, +0.0]" in capsys.readouterr().out


def test_a_metric_that_the_items_do_not_define_is_left_out_with_its_reason(
    fakes, capsys, monkeypatch
) -> None:
    """Rows come in the order of their items' names."""
    page_of = np.array([int(item) // 4 for item in sorted(map(str, range(24)))])
    metrics = {"accuracy": accuracy()}
    for name, pages in (("single", (2,)), ("pair", (2, 5)), ("void", ())):

        def sizes(rows: np.ndarray, pages: tuple[int, ...] = pages) -> np.ndarray:
            return np.isin(page_of, pages).astype(float)

        metrics[name] = dataclasses.replace(accuracy(), name=name, sizes=sizes)
    monkeypatch.setattr(FakeTask, "metrics", lambda self, data: metrics)
    assert run("--seeds", "1") == 0
    reasons = [
        "all items of single are of one cluster; an interval needs two or more",
        "void counts none of the 24 items",
    ]
    before, _, after = capsys.readouterr().out.partition("4 jobs")
    page = (fakes / "out" / "report.html").read_text()
    for reason in reasons:
        assert f"    left out: {reason}\n" in before  # of training
        assert f"Left out: {reason}." in after and f"Left out: {reason}." in page
    (data,) = json.loads((fakes / "out" / "summary.json").read_text())["data"]
    assert data["left_out"] == reasons
    assert [own["metric"] for own in data["comparisons"]] == ["accuracy", "pair"]
    assert list(data["constant_answer"]) == ["accuracy", "pair"]


# --- What ends it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_what_is_finished(fakes, capsys, monkeypatch, number: signal.Signals) -> None:
    whole = FakeTask.train_and_predict

    def stopped(self, *given):
        if len(FakeTask.calls) == 3:
            signal.raise_signal(number)
        return whole(self, *given)

    monkeypatch.setattr(FakeTask, "train_and_predict", stopped)
    assert run("--seeds", "2") == 128 + number
    said = capsys.readouterr().err
    assert f"Stopped by {number.name}. Results kept in out: 3." in said and "Traceback" not in said
    assert len(results(fakes)) == 3 and not (fakes / "out" / ".lock").exists()
    monkeypatch.setattr(FakeTask, "train_and_predict", whole)
    assert run("--seeds", "2") == 0 and len(FakeTask.calls) == len(set(FakeTask.calls)) == 8


def test_a_job_that_fails_leaves_the_others(fakes, capsys, monkeypatch) -> None:
    whole = FakeTask.train_and_predict

    def failing(self, checkpoint, data, fold, options, conditions):
        if checkpoint.name == "a" and conditions.seed == 1:
            raise RuntimeError("CUDA out of memory")
        return whole(self, checkpoint, data, fold, options, conditions)

    monkeypatch.setattr(FakeTask, "train_and_predict", failing)
    assert run("--seeds", "2") == 1
    said = capsys.readouterr().err
    assert "spanbert-evaluate: error: a, seed 1: RuntimeError: CUDA out of memory" in said
    assert "2 jobs failed" in said and not (fakes / "out" / "report.html").exists()
    monkeypatch.setattr(FakeTask, "train_and_predict", whole)
    assert run("--seeds", "2") == 0 and len(FakeTask.calls) == 8


def test_rows_that_are_not_the_folds_are_refused(fakes, monkeypatch) -> None:
    whole = FakeTask.train_and_predict

    def short(self, *given):
        outcome = whole(self, *given)
        return type(outcome)(outcome.rows[1:])

    monkeypatch.setattr(FakeTask, "train_and_predict", short)
    with pytest.raises(ValueError, match="11 rows of 12 items in '1 of 2'"):
        run("--seeds", "1")


def test_a_damaged_result_says_what_to_do(fakes, capsys) -> None:
    assert run("--seeds", "1") == 0
    damaged = fakes / "out" / "results" / results(fakes)[0]
    damaged.write_text(damaged.read_text()[:50])
    assert f"{damaged.name} cannot be read" in error_of(capsys, "--seeds", "2")
    assert len(FakeTask.calls) == 4  # before anything more is done
    damaged.unlink()
    assert run("--seeds", "1") == 0 and len(FakeTask.calls) == 5


def test_a_second_command_on_the_folder_is_refused(fakes, capsys) -> None:
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
        about = (fakes / "out" / "evaluation.json").read_text()
        assert "out is in use by another run" in error_of(capsys, "--seeds", "2")
        assert (fakes / "out" / "evaluation.json").read_text() == about
    finally:
        leave.set()
        process.join()
