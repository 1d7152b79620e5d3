# SPDX-License-Identifier: Apache-2.0
"""Results on the disk: a JSON file a job, whole at any time."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers

from spanbert_ext._version import __version__
from spanbert_ext.evaluate.run.jobs import Job, Jobs
from spanbert_ext.evaluate.scores.rows import ItemRow
from spanbert_ext.evaluate.tasks.form import EvaluationError, Outcome
from spanbert_ext.files.disk import explained, temporaries, write_synced
from spanbert_ext.files.lock import LOCK_FILE, run_lock
from spanbert_ext.files.run_files import finite, write_json

RESULTS = "results"
ABOUT = "evaluation.json"  # the command that was given last


@dataclass(frozen=True)
class Result:
    """What a job's file holds."""

    rows: list[ItemRow]
    predictions: dict[str, Any]
    facts: dict[str, Any]


class Store:
    """The folder of an evaluation. A job's file is called after its checkpoint, seed and fold, for people, and its key,
    by which alone it is found: a result of other weights, data or options is another file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def held(self, about: dict[str, Any]) -> Iterator[None]:
        """Makes the folder, or takes one that an evaluation made, and keeps other commands out of it. Nothing of an
        evaluation that another command holds is touched. Raises `EvaluationError`, `InUse`."""
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise EvaluationError(f"--output {folder} is a file; expected a folder")
        with ExitStack() as stack:
            try:
                if folder.is_dir() and self._is_foreign():
                    raise EvaluationError(
                        f"--output {folder} is not empty and holds no evaluation: choose another folder"
                    )
                (folder / RESULTS).mkdir(parents=True, exist_ok=True)
                stack.enter_context(run_lock(folder))
                write_json(about, folder / ABOUT)
            except OSError as error:
                message = f"--output {folder} is not writable: {error.strerror or error}"
                raise EvaluationError(message) from error
            yield

    def _is_foreign(self) -> bool:
        """Whether the folder holds what no evaluation made. One that ended before it had written what it is, as on a
        full disk, leaves an empty folder of results, a lock, and a temporary file."""
        about, results = self.folder / ABOUT, self.folder / RESULTS
        own = {self.folder / LOCK_FILE, *temporaries(about)}
        if results.is_dir() and not any(results.iterdir()):
            own.add(results)
        return not about.is_file() and not own.issuperset(self.folder.iterdir())

    def done(self, jobs: Jobs) -> set[str]:
        """Keys of the jobs that have a result. Raises `EvaluationError` for one that cannot be read: better now than
        when all others are done."""
        found = [job for job in jobs.jobs if self._find(job) is not None]
        for job in found:
            self.read(job)
        return {job.key for job in found}

    def others(self, jobs: Jobs) -> int:
        """How many results are of none of these jobs."""
        keys = {job.key for job in jobs.jobs}
        files = (self.folder / RESULTS).glob("*.json")
        return sum(file.stem.rpartition("-")[2] not in keys for file in files)

    def write(self, jobs: Jobs, job: Job, outcome: Outcome) -> None:
        """Raises `DiskError`; ValueError for rows that are not the fold's, or not finite."""
        fold = jobs.folds[job.data][job.fold]
        if len({row.item for row in outcome.rows}) != len(fold.test) or len(outcome.rows) != len(fold.test):
            raise ValueError(f"{len(outcome.rows)} rows of {len(fold.test)} items in {fold.name!r}")
        rows = [[row.cluster, row.item, [float(x) for x in row.row]] for row in outcome.rows]
        if not all(math.isfinite(x) for _, _, row in rows for x in row):
            raise ValueError(f"a row of {fold.name!r} is not finite")
        content = {
            "key": job.key,
            "task": jobs.task,
            "data": jobs.data[job.data].name,
            "fold": fold.name,
            "seed": job.seed,
            "checkpoint": dataclasses.asdict(job.checkpoint) | {"folder": str(job.checkpoint.folder)},
            "options": dataclasses.asdict(jobs.options),
            "device": jobs.device,
            "bf16": jobs.bf16,
            "versions": versions(),
            "facts": finite(outcome.facts),
            "predictions": finite(outcome.predictions),
            "rows": rows,
        }
        with explained("a result", self.folder):
            write_synced(
                json.dumps(content, allow_nan=False, ensure_ascii=False) + "\n", self._path(jobs, job)
            )

    def read(self, job: Job) -> Result:
        """The result of a job that is done. Raises `EvaluationError`."""
        path = self._find(job)
        if path is None:
            raise EvaluationError(
                f"{self.folder}: the result of {job.checkpoint.name}, seed {job.seed} is gone"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["key"] != job.key:
                raise ValueError(f"its key is {content['key']!r}")
            rows = [ItemRow(cluster, item, tuple(row)) for cluster, item, row in content["rows"]]
            return Result(rows, content["predictions"], content["facts"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f"{path} cannot be read ({error}): delete it, and its job is done again"
            ) from error

    def _find(self, job: Job) -> Path | None:
        return next((self.folder / RESULTS).glob(f"*-{job.key}.json"), None)

    def _path(self, jobs: Jobs, job: Job) -> Path:
        fold = jobs.folds[job.data][job.fold].name
        parts = (jobs.data[job.data].name, job.checkpoint.name, job.checkpoint.pretraining_seed, fold)
        words = [_file_name(part) for part in parts if part]
        return self.folder / RESULTS / "-".join([*words, f"seed{job.seed}", f"{job.key}.json"])


def _file_name(part: str) -> str:
    """At most 60 bytes: a name of several parts stays within the 255 that file systems have."""
    return re.sub(r"[^\w.]+", "_", part).encode()[-60:].decode(errors="ignore")


def versions() -> dict[str, str]:
    return {
        "spanbert_ext": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }
