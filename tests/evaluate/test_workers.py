# SPDX-License-Identifier: Apache-2.0
"""Jobs in several processes: each is done once, whichever process dies."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

import torch
import working_process

from spanbert_ext.evaluate.run import workers
from spanbert_ext.evaluate.run.workers import Failure, do_jobs

JOBS = SimpleNamespace(task="none", device="cpu")


def run(monkeypatch, names: list[str], jobs: SimpleNamespace = JOBS):
    monkeypatch.setattr(workers, "_work", working_process.work)
    done, shares = {}, []
    failures = do_jobs(jobs, names, 2, done.__setitem__, lambda job, share: shares.append((job, share)))
    assert all((name, 1.0) in shares for name in [*done, *(f.job for f in failures if "status" in f.message)])
    return done, failures


def test_every_job_is_answered_once(monkeypatch) -> None:
    names = [f"job {i}" for i in range(7)]
    done, failures = run(monkeypatch, names)
    assert done == {name: f"answer to {name}" for name in names} and not failures


def test_a_process_that_dies_takes_its_job_alone(monkeypatch) -> None:
    done, failures = run(monkeypatch, ["a", "dies", "b", "c", "d"])
    assert sorted(done) == ["a", "b", "c", "d"]
    assert failures == [Failure("dies", "its process ended with status 7")]


def test_without_processes_the_rest_fails(monkeypatch) -> None:
    done, failures = run(monkeypatch, ["dies", "dies too", "a", "b"])
    jobs = [failure.job for failure in failures]
    assert not done and jobs[2:] == ["a", "b"]
    assert {*jobs[:2]} == {"dies", "dies too"}  # in two processes: in any order
    assert failures[-1].message == "no process was left to do it"


def test_a_process_that_dies_before_it_reads_its_job(monkeypatch) -> None:
    """As one whose imports want more memory than there is."""
    jobs = SimpleNamespace(task="dies at once", device="cpu")
    done, failures = run(monkeypatch, ["a", "b", "c"], jobs)
    assert not done and sorted(failure.job for failure in failures) == ["a", "b", "c"]
    assert [failure.message for failure in failures].count("its process ended with status 7") == 2


def test_each_process_sees_a_gpu_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for seen, expected in ((None, ["0", "1", "0"]), ("4,6", ["4", "6", "4"])):
        if seen is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
        found = []
        for number in range(3):
            with workers._one_gpu(number):
                found.append(workers.os.environ["CUDA_VISIBLE_DEVICES"])
        assert found == expected
        assert workers.os.environ.get("CUDA_VISIBLE_DEVICES") == seen
