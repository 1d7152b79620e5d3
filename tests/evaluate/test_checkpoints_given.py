# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints a command names, and by what they are known again."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import tiny_tasks

from spanbert_ext.evaluate.run.checkpoints import digest_of, find_checkpoints
from spanbert_ext.evaluate.tasks.form import EvaluationError


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny_tasks.save_checkpoint(
        folder, tiny_tasks.tokenizer_of(["a b c"]), hidden_size=16, num_attention_heads=2
    )
    return folder


def copies(saved: Path, folder: Path, *names: str) -> list[str]:
    """Copies with other weights: the last byte is another."""
    made = []
    for number, name in enumerate(names):
        shutil.copytree(saved, folder / name)
        weights = folder / name / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + bytes([number]))
        made.append(str(folder / name))
    return made


def test_names_are_the_shortest_ends_that_differ(saved, tmp_path) -> None:
    found = find_checkpoints(copies(saved, tmp_path, "one/final", "two/final", "three"))
    assert [c.name for c in found] == ["one/final", "two/final", "three"]
    assert [c.pretraining_seed for c in found] == ["", "", ""]
    assert len({c.digest for c in found}) == 3


def test_several_of_one_name_are_seeds(saved, tmp_path) -> None:
    a, b, c = copies(saved, tmp_path, "a", "b", "c")
    found = find_checkpoints([f"spans={a}", f"tokens={b}", f"spans={c}"])
    assert [(x.name, x.pretraining_seed) for x in found] == [("spans", "1"), ("tokens", ""), ("spans", "2")]
    assert found[2].folder == Path(c)


def test_a_folder_with_an_equals_sign(saved, tmp_path) -> None:
    (place,) = copies(saved, tmp_path, "rate=1e-4")
    assert find_checkpoints([place])[0].folder == Path(place)
    assert find_checkpoints([f"mine={place}"])[0].name == "mine"


def test_the_same_checkpoint_twice_is_refused(saved, tmp_path) -> None:
    (a,) = copies(saved, tmp_path, "a")
    with pytest.raises(EvaluationError, match="are the same checkpoint, expected other seeds"):
        find_checkpoints([f"x={a}", f"x={a}"])
    with pytest.raises(EvaluationError, match=re.escape(f"two checkpoints are called {str(a)!r}: ")):
        find_checkpoints([a, a])
    assert len(find_checkpoints([f"x={a}", f"y={a}"])) == 2  # how much of a difference is noise


@pytest.mark.parametrize("text", ["", "  ", "=x", "name="])
def test_what_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(EvaluationError, match="expected FOLDER or NAME=FOLDER"):
        find_checkpoints([text])


@pytest.mark.parametrize("text", ["./nowhere", "/nowhere", "a/b/c", "nowhere", "someone/nowhere"])
def test_what_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(EvaluationError, match="is not there|is neither a folder nor a model on the"):
        find_checkpoints([text])


def test_a_file_and_a_folder_without_a_model_are_refused(saved, tmp_path) -> None:
    with pytest.raises(EvaluationError, match="is a file"):
        find_checkpoints([str(saved / "config.json")])
    with pytest.raises(EvaluationError, match="holds no weights"):
        find_checkpoints([str(tmp_path)])
    (place,) = copies(saved, tmp_path, "a")
    (Path(place) / "config.json").unlink()
    with pytest.raises(EvaluationError, match=r"holds no config\.json"):
        find_checkpoints([place])


def test_the_digest_is_of_what_is_loaded(saved, tmp_path) -> None:
    folder = Path(copies(saved, tmp_path, "a")[0])
    before = digest_of(folder)
    (folder / "metrics.json").write_text("{}")
    (folder / "checkpoints").mkdir()
    assert digest_of(folder) == before
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.3}))
    changed = digest_of(folder)
    assert changed != before
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert digest_of(tmp_path / "elsewhere") == changed
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + "\n")
    assert digest_of(folder) != changed


def test_the_digest_of_weights_in_several_files(saved, tmp_path) -> None:
    folder = Path(copies(saved, tmp_path, "a")[0])
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("{}")
    parts = [folder / f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for part in parts:
        part.write_bytes(b"weights")
    before = digest_of(folder)
    parts[1].write_bytes(b"others!")
    assert digest_of(folder) != before
