# SPDX-License-Identifier: Apache-2.0
"""What the tests of the command share: a folder with checkpoints and data, and a task that is done at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def saved_fake(tmp_path_factory) -> Path:
    import tiny_tasks

    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny_tasks.save_checkpoint(folder, tiny_tasks.squad_tokenizer())
    return folder


@pytest.fixture
def fakes(saved_fake, tmp_path, monkeypatch) -> Path:
    """The working directory: with checkpoints `a` and `b`, labels.txt, and the task `fake`."""
    import fake_task

    from spanbert_ext.evaluate.tasks import registry

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(registry.TASKS, "fake", fake_task.ENTRY)
    for record in ("calls", "checks"):
        monkeypatch.setattr(fake_task.FakeTask, record, [])
    for number, name in enumerate("ab"):
        shutil.copytree(saved_fake, tmp_path / name)
        weights = tmp_path / name / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + bytes([number]))
    fake_task.write_labels(tmp_path / "labels.txt")
    return tmp_path
