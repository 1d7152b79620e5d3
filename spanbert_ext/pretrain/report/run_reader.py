# SPDX-License-Identifier: Apache-2.0
"""What a run's folder tells of it, finished, going on or broken off: from its JSON files alone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spanbert_ext.files.run_files import HISTORY_FILE, SAMPLES_FILE, finite
from spanbert_ext.pretrain.run.checkpoints import CHECKPOINTS, METRICS_FILE, RUN_FILE
from spanbert_ext.pretrain.run.evaluations import LENGTHS, by_law, evaluations
from spanbert_ext.pretrain.settings.options import RESUMABLE

# What is read of metrics.json and of the options; anything else in its place is of another version, or was edited.
_METRICS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("documents", "train_tokens", "held_out_tokens", "tokens_seen"), int),
    **dict.fromkeys(
        ("unigram_entropy", "tokens_per_second", "mfu", "memory_gb", "train_seconds"), (int, float)
    ),
    **{"held_out": dict, "options": dict, "corpus": list},
}
_OPTIONS = {"max_steps": int, "masking": str, "corpus": list}
_NOT_COMPARED = RESUMABLE - {"on_bad_loss"}  # they say where and how a run was done, not what it was


class ReportError(ValueError):
    """A folder cannot be reported; the message names it and says why."""


@dataclass
class Run:
    """A run. `metrics` is empty unless it is finished; `problems` says which files could not be read."""

    name: str
    folder: Path
    options: dict[str, Any]
    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    examples: list[dict[str, Any]]
    problems: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Steps taken up to the last log."""
        return max((log["step"] for log in self.history), default=0)

    @property
    def state(self) -> str:
        """`finished`, or how far it is."""
        if self.metrics:
            return "finished"
        planned = self.options.get("max_steps")
        return f"{self.steps / planned:.0%} of {planned:,}" if planned else "not finished"

    @property
    def masking(self) -> str:
        return self.options.get("masking") or "spans"

    def laws(self) -> dict[str, dict[str, Any]]:
        """The last evaluation's losses and accuracies by mask law."""
        if "held_out" in self.metrics:
            return self.metrics["held_out"]
        found = evaluations(self.history)
        return by_law(found[max(found)], self.masking) if found else {}

    def last(self, name: str) -> float | None:
        """The latest value of a training log's entry, or what metrics.json says of the whole run."""
        if self.metrics.get(name) is not None:
            return self.metrics[name]
        return next((log[name] for log in reversed(self.history) if log.get(name) is not None), None)


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in `folders`, or, where a folder holds none itself, those in the folders in it, by name.

    Raises `ReportError` for a folder without any."""
    found: list[Path] = []
    for folder in folders:
        if not os.path.isdir(folder):
            raise ReportError(f"{folder} is {_absence(folder)}; expected a run's folder")
        if os.path.isfile(folder / RUN_FILE):
            inside = [folder]
        else:
            inside = sorted(path.parent for path in folder.glob(f"*/{RUN_FILE}"))
        if not inside:
            raise ReportError(f"{folder} holds no run: no {RUN_FILE} in it, nor in a folder in it")
        found += inside
    unique = {path.resolve(): path for path in found}
    return [_read_run(path, name) for path, name in zip(unique.values(), _names([*unique]), strict=True)]


def _absence(path: Path) -> str:
    """Of what is no folder."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "not there"
    except OSError as error:
        return f"not to be read ({error.strerror or error})"
    return "a file"


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def _read_run(folder: Path, name: str) -> Run:
    problems: list[str] = []

    def read(path: Path, kind: type) -> Any:
        if not path.is_file():
            return kind()
        try:
            content = finite(json.loads(path.read_text(encoding="utf-8")))
            if not isinstance(content, kind):
                raise ValueError(f"holds no {kind.__name__}")
        except (OSError, ValueError) as error:
            problems.append(f"{path.name} cannot be read: {error}")
            return kind()
        return content

    def known(content: dict[str, Any], kinds: dict[str, Any], path: str) -> dict[str, Any]:
        bad = [name for name, kind in kinds.items() if not isinstance(content.get(name), (kind, type(None)))]
        problems.extend(f"{path}: {name} is {content[name]!r:.80}" for name in bad)
        return {name: x for name, x in content.items() if x is not None and name not in bad}

    run = read(folder / RUN_FILE, dict)
    metrics = known(read(folder / METRICS_FILE, dict), _METRICS, METRICS_FILE)
    if "held_out" in metrics:
        metrics["held_out"] = _laws(metrics["held_out"])
    histories = [read(folder / HISTORY_FILE, list)]
    checkpoint = _newest_state(folder)
    if checkpoint is not None:
        found = read(checkpoint, dict).get("log_history")
        histories.append(found if isinstance(found, list) else [])
    history = max(map(_logs, histories), key=lambda history: history[-1]["step"] if history else -1)
    options = metrics.get("options") or run.get("options")
    options = known(options if isinstance(options, dict) else {}, _OPTIONS, "options")
    examples = read(folder / SAMPLES_FILE, dict).get("examples")
    examples = [
        example
        for example in (examples if isinstance(examples, list) else [])
        if isinstance(example, dict) and example.keys() >= {"before", "span", "after", "tokens"}
    ]
    return Run(name, folder, options, metrics, history, examples, problems)


def _numbers(content: Any) -> dict[str, Any]:
    """The entries that are numbers."""
    if not isinstance(content, dict):
        return {}
    return {name: x for name, x in content.items() if isinstance(x, (int, float)) and not isinstance(x, bool)}


def _logs(history: list[Any]) -> list[dict[str, Any]]:
    logs = map(_numbers, history)
    return [log for log in logs if isinstance(log.get("step"), int)]


def _laws(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What metrics.json has of each mask law: numbers, and rows of numbers by span length."""
    laws = {}
    for law, found in content.items():
        rows = found.get("by_span_length") if isinstance(found, dict) else None
        rows = [
            {**_numbers(row), "length": str(row["length"])}
            for row in (rows if isinstance(rows, list) else [])
            if isinstance(row, dict) and str(row.get("length")) in LENGTHS and "tokens" in _numbers(row)
        ]
        laws[law] = _numbers(found) | {"by_span_length": rows}
    return laws


def _newest_state(folder: Path) -> Path | None:
    states = {
        int(match[1]): path
        for path in (folder / CHECKPOINTS).glob("checkpoint-*/trainer_state.json")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.parent.name))
    }
    return states[max(states)] if states else None


def differing_options(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The options whose values are not the same in all runs, with these values."""
    names = dict.fromkeys(name for run in runs for name in run.options if name not in _NOT_COMPARED)
    values = {name: [run.options.get(name) for run in runs] for name in names}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}
