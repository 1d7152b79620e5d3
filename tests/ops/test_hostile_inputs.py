# SPDX-License-Identifier: Apache-2.0
"""No hostile input of a public operator ends the process, hangs, gives other numbers than the reference, or raises an
error that names nothing of ours.

    pytest tests/ops/test_hostile_inputs.py -s --hostile-inputs 20000 --hostile-seed 7
"""

from __future__ import annotations

import collections
import json
import os
import selectors
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("hostile_inputs.py")
CHILDREN = 2
SILENCE = 30.0  # seconds without a line: the input hangs
START = 600.0  # until the first line: torch is imported, beside whatever else runs


@dataclass
class Child:
    """A process that judges the inputs from `at` to `last`; a new one goes on behind the input that ended it."""

    seed: int
    at: int
    last: int
    process: subprocess.Popen[bytes] | None = None
    begun: dict[str, object] | None = None
    deadline: float = 0.0
    buffer: bytes = b""
    results: list[dict[str, object]] = field(default_factory=list)

    def start(self) -> None:
        command = [sys.executable, str(SCRIPT), str(self.seed), str(self.at), str(self.last)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        self.begun, self.buffer, self.deadline = None, b"", time.monotonic() + START

    def hear(self) -> bool:
        """Takes what the child wrote; False at the end of its output."""
        assert self.process is not None and self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), 1 << 16)
        self.deadline = time.monotonic() + SILENCE
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in map(json.loads, lines):
            if "begins" in line:
                self.begun = line
            else:
                assert self.begun is not None
                self.results.append(line | {"input": self.begun["input"]})
                self.at, self.begun = line["ends"] + 1, None
        return bool(data)

    def end(self, why: str | None = None) -> None:
        """Ends the process, and counts the input that it was at as a fault."""
        assert self.process is not None
        if why is not None:
            self.process.kill()
        _, errors = self.process.communicate()
        if self.at < self.last:
            if self.begun is None:
                raise RuntimeError(f"hostile_inputs.py ended between two inputs: {errors.decode()[-2000:]}")
            why = why or f"ends the process with {self.process.returncode}"
            fault = f"{why} {errors.decode()[-300:].strip()}".strip()
            self.results.append({**self.begun, "ends": self.at, "what": why, "fault": fault})
            self.at += 1
        self.process = None


def judged(seed: int, count: int) -> list[dict[str, object]]:
    """What became of each of the inputs."""
    bounds = [count * i // CHILDREN for i in range(CHILDREN + 1)]
    children = [Child(seed, first, last) for first, last in zip(bounds, bounds[1:], strict=False)]
    with selectors.DefaultSelector() as selector:
        running: list[Child] = []

        def restart(child: Child) -> None:
            if child.at < child.last:
                child.start()
                assert child.process is not None
                selector.register(child.process.stdout, selectors.EVENT_READ, child)
                running.append(child)

        def stop(child: Child, why: str | None = None) -> None:
            assert child.process is not None
            selector.unregister(child.process.stdout)
            running.remove(child)
            child.end(why)
            restart(child)

        for child in children:
            restart(child)
        while running:
            for key, _ in selector.select(timeout=1.0):
                if not key.data.hear():
                    stop(key.data)
            for child in [c for c in running if time.monotonic() > c.deadline]:
                stop(child, "hangs")
    return [result for child in children for result in child.results]


def table(results: list[dict[str, object]]) -> str:
    """Inputs by operator and by what became of them."""
    columns = sorted({str(r["what"]) for r in results}, key=lambda name: (name != "accepted", name))
    counts = collections.Counter((r["operator"], r["what"]) for r in results)
    lines = [" | ".join(["operator", "inputs", *columns, "faults"])]
    for operator in sorted({str(r["operator"]) for r in results}):
        mine = [r for r in results if r["operator"] == operator]
        faults = sum(r["fault"] is not None for r in mine)
        lines.append(
            " | ".join(map(str, [operator, len(mine), *(counts[operator, c] for c in columns), faults]))
        )
    return "\n".join(lines)


def test_hostile_inputs_are_refused_by_name_or_computed_as_the_reference_does(
    request: pytest.FixtureRequest,
) -> None:
    seed, count = request.config.getoption("--hostile-seed"), request.config.getoption("--hostile-inputs")
    results = judged(seed, count)
    print(f"\nseed {seed}\n{table(results)}")
    assert sorted(int(r["ends"]) for r in results) == list(range(count))
    faults = [f"{r['ends']}: {r['input']}: {r['fault']}" for r in results if r["fault"] is not None]
    assert not faults, f"{len(faults)} of seed {seed}, such as\n" + "\n".join(faults[:40])
    accepted = sum(r["what"] == "accepted" for r in results)
    assert count / 10 < accepted < 0.9 * count  # inputs of one kind alone would test little


def test_the_judge_sees_every_kind_of_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that crashes, hangs and errs at known inputs: each is found, and the rest goes on."""
    script = tmp_path / "faulty.py"
    script.write_text(
        "import json, os, sys, time\n"
        "for i in range(int(sys.argv[2]), int(sys.argv[3])):\n"
        "    print(json.dumps({'begins': i, 'operator': 'op', 'input': f'input {i}'}), flush=True)\n"
        "    if i == 3: os.abort()\n"
        "    if i == 5: time.sleep(60)\n"
        "    fault = 'differs' if i == 6 else None\n"
        "    print(json.dumps({'ends': i, 'operator': 'op', 'what': 'accepted', 'fault': fault}), flush=True)\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "SCRIPT", script)
    monkeypatch.setattr(sys.modules[__name__], "SILENCE", 2.0)
    results = sorted(judged(0, 8), key=lambda r: int(r["ends"]))
    assert [r["ends"] for r in results] == list(range(8))
    faults = {r["ends"]: r["fault"] for r in results if r["fault"] is not None}
    assert faults == {3: "ends the process with -6", 5: "hangs", 6: "differs"}
    assert results[3]["input"] == "input 3"
