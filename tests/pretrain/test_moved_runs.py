# SPDX-License-Identifier: Apache-2.0
"""What a run reads or keeps is elsewhere, damaged, or something else stands there: that is said, and what to do."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

from tiny_models import one_thread, tiny_tokenizer  # noqa: F401
from tiny_runs import arguments, contents, copy_of, error_of, finished_run, same_result, write_corpus

from spanbert_ext.pretrain import cli
from spanbert_ext.pretrain.run import checkpoints, data, resuming, train
from spanbert_ext.pretrain.run.checkpoints import RunError, check_output, delete_run, write_run_file
from spanbert_ext.pretrain.settings.options import OptionError, Options, load_options, save_options


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def left_alone(corpus, tmp_path_factory) -> Path:
    return finished_run(corpus, tmp_path_factory.mktemp("run"))


def remember(run: Path, **options: object) -> None:
    """run.json as if the run had been given these options."""
    content = json.loads((run / "run.json").read_text())
    content["options"] |= options
    (run / "run.json").write_text(json.dumps(content))


def remembered(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())["options"]


# --- What it reads ---------------------------------------------------------------------------------------------


def test_a_text_that_was_moved_is_found_where_it_is_said_to_be(left_alone, corpus, tmp_path, capsys):
    run = copy_of(left_alone, tmp_path)
    for gone in ("/gone/text.txt", "/gone/*.txt", "dataset:/gone/set", str(tmp_path / "empty")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        remember(run, corpus=[gone])
        errors = error_of(capsys, 2, "--output", str(run), "--resume")
        assert Path(gone).name.removeprefix("dataset:") in errors
        assert f"The run in {run} began with it: where it was moved, give --corpus NEW_PLACE" in errors
    moved = tmp_path / "elsewhere" / "notes.txt"
    moved.parent.mkdir()
    moved.write_text(corpus.read_text() + " Further.")
    before = contents(run)
    errors = error_of(capsys, 2, "--output", str(run), "--resume", "--corpus", str(moved))
    assert f"the corpus is not the one that the run in {run} began with: {moved} has the digest" in errors
    assert f"{tmp_path}/empty had " in errors and contents(run) == before
    moved.write_text(corpus.read_text())
    assert cli.main(["--output", str(run), "--resume", "--corpus", str(moved)]) == 0
    assert same_result(left_alone, run) and remembered(run)["corpus"] == [str(moved)]
    capsys.readouterr()
    assert cli.main(["--output", str(run), "--resume"]) == 0  # without saying it again
    assert "nothing is left to do" in capsys.readouterr().out


def test_a_tokenizer_that_was_moved(left_alone, tmp_path, capsys):
    run = copy_of(left_alone, tmp_path)
    remember(run, tokenizer="/gone/words")
    errors = error_of(capsys, 2, "--output", str(run), "--resume")
    assert "tokenizer '/gone/words' does not exist" in errors and "give --tokenizer NEW_PLACE" in errors
    shutil.copytree(run / "tokenizer", tmp_path / "words")
    vocabulary = tmp_path / "words" / "tokenizer.json"
    whole = vocabulary.read_text()
    rules = json.loads(whole)
    rules["model"]["vocab"]["newword"] = len(rules["model"]["vocab"])
    vocabulary.write_text(json.dumps(rules))
    given = ["--output", str(run), "--resume", "--tokenizer", str(tmp_path / "words")]
    assert f"{tmp_path}/words has the digest" in (errors := error_of(capsys, 2, *given))
    assert "/gone/words had" in errors
    vocabulary.write_text(whole)
    assert cli.main(given) == 0
    assert remembered(run)["tokenizer"] == str(tmp_path / "words")


def test_what_may_have_moved_and_what_may_not(tmp_path):
    save_options(Options(model="/a/bert", corpus=["/a/text.txt"]).resolve(), tmp_path / "run.json")
    options, _ = load_options(tmp_path / "run.json", {"model": "/b/bert", "corpus": ["/b/text.txt"]})
    assert (options.model, options.corpus) == ("/b/bert", ["/b/text.txt"])
    with pytest.raises(OptionError, match="--model is 'small' but the run in .* was started with '/a/bert'"):
        load_options(tmp_path / "run.json", {"model": "small"})
    with pytest.raises(OptionError, match="--tokenizer is 'words' but the run in .* was started with None"):
        load_options(tmp_path / "run.json", {"tokenizer": "words"})
    save_options(Options().resolve(), tmp_path / "run.json")
    for given in ({"model": "/a/bert"}, {"corpus": ["text.txt"]}):
        with pytest.raises(OptionError, match="was started with"):
            load_options(tmp_path / "run.json", given)


def test_a_model_that_was_moved_is_known_by_its_weights(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
        (tmp_path / name / "README.md").write_text(name)
    begun = dataclasses.replace(Options(model=str(tmp_path / "old")).resolve(), max_steps=5)
    now = dataclasses.replace(begun, model=str(tmp_path / "new"), resume=True)
    read = SimpleNamespace(facts={"corpus_digest": "ab"}, tokenizer=tiny_tokenizer())
    facts = resuming.facts_of(begun, read)
    write_run_file(tmp_path, begun, **facts)
    resuming.check_same(tmp_path, now, read, facts, 1)
    (tmp_path / "new" / "model.safetensors").write_bytes(b"others")
    with pytest.raises(
        RunError, match=f"the model is not the one .*: {tmp_path}/new has .* {tmp_path}/old had"
    ):
        resuming.check_same(tmp_path, now, read, facts, 1)
    with pytest.raises(RunError, match="of which it keeps no digest"):  # of the hub
        resuming.check_same(tmp_path, now, read, facts | {"model_digest": None}, 1)
    with pytest.raises(RunError, match=r"--corpus is text and .* began with a prepared corpus"):
        resuming.check_same(tmp_path, begun, read, facts | {"prepared": True}, 1)
    older = {name: facts[name] for name in ("corpus_digest", "tokenizer_sha256")}
    resuming.check_same(tmp_path, begun, read, older, 1)
    shutil.rmtree(tmp_path / "old")
    with pytest.raises(RunError, match="model '.*old' does not exist. .* give --model NEW_PLACE"):
        resuming.check_begun(dataclasses.replace(begun, resume=True), tmp_path)


@pytest.mark.parametrize("damage", ["empty", "incomplete", "cut", "zeroed", "edited"])
def test_a_damaged_tokenizer_is_trained_again_when_its_folder_is_deleted(
    left_alone, tmp_path, capsys, damage
):
    run = copy_of(left_alone, tmp_path)
    folder = run / "tokenizer"
    path = folder / "tokenizer.json"
    if damage == "empty":
        checkpoints.make_anew(folder)
    elif damage == "incomplete":
        path.unlink()
    else:
        text = path.read_bytes()
        harmed = {"cut": text[:200], "zeroed": bytes(len(text)), "edited": text.replace(b"[UNK]", b"[UNC]")}
        path.write_bytes(harmed[damage])
    errors = error_of(capsys, 2, "--output", str(run), "--resume")
    assert f"rm -r {folder})" in errors and "--resume trains" in errors
    if damage == "cut":
        shutil.rmtree(folder)
        assert cli.main(["--output", str(run), "--resume"]) == 0
        assert same_result(left_alone, run) and path.read_bytes() == text


# --- What it keeps ---------------------------------------------------------------------------------------------

FOLDERS = ("checkpoints", "tensorboard", "tokenizer")
FILES = (
    "metrics.json",
    "losses.png",
    "history.json",
    "samples.json",
    ".lock",
    "model.safetensors",
    "other.bin",
)


def made_run(folder: Path) -> Path:
    folder.mkdir()
    write_run_file(folder, Options().resolve(), corpus_digest="ab")
    checkpoints.add_to_run_file(folder, files=["model.safetensors", "other.bin"])
    return folder


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("more", [{"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}])
def test_a_file_or_a_dead_link_in_the_place_of_a_folder(tmp_path, name, more):
    run = made_run(tmp_path / "run")
    check_output(run, **more)
    (run / name).write_text("mine")
    with pytest.raises(
        RunError, match=f"{run}/{name} is a file, and a run keeps a folder there: move it away"
    ):
        check_output(run, **more)
    (run / name).unlink()
    (run / name).symlink_to(tmp_path / "gone")
    dead = f"{run}/{name} is a link to {tmp_path}/gone, where nothing is: make that, or delete the link"
    with pytest.raises(RunError, match=dead):
        check_output(run, **more)
    (run / "run.json").unlink()
    with pytest.raises(RunError, match="no run" if more["resume"] else dead):
        check_output(run, **more)
    (tmp_path / "gone").mkdir()
    if not more["resume"]:  # a run that is new
        check_output(run, **more)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_or_a_dead_link_in_the_place_of_a_file(tmp_path, name):
    run = made_run(tmp_path / "run")
    (run / name).mkdir()
    for more in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
        with pytest.raises(RunError, match=f"{run}/{name} is a folder, and a run writes a file there"):
            check_output(run, **more)
    (run / name).rmdir()
    (run / name).symlink_to(tmp_path / "gone")
    with pytest.raises(RunError, match=f"{run}/{name} is a link to {tmp_path}/gone, where nothing is"):
        check_output(run, resume=True, overwrite=False)


def test_an_empty_folder_is_no_obstacle_but_where_a_file_goes(tmp_path):
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(RunError, match="metrics.json is a folder, and a run writes a file there"):
        check_output(tmp_path, resume=False, overwrite=False)


def test_a_folder_that_is_closed(tmp_path, monkeypatch):
    """By permissions, which the root user has all."""
    run = made_run(tmp_path / "run")
    (run / "tensorboard").mkdir()
    (run / "metrics.json").touch()
    closed: set[Path] = set()
    monkeypatch.setattr(checkpoints.os, "access", lambda path, mode: path not in closed)
    check_output(run, resume=True, overwrite=False)
    for name in ("tensorboard", "metrics.json"):
        closed.add(run / name)
        with pytest.raises(RunError, match=f"{run}/{name} cannot be read .*: change its permissions"):
            check_output(run, resume=True, overwrite=False)
        closed.clear()


@pytest.mark.parametrize("files", [None, 3, "model", [None, 5, "model.safetensors"], {"a": 1}])
def test_a_run_file_with_other_files(tmp_path, files):
    run = made_run(tmp_path / "run")
    checkpoints.add_to_run_file(run, files=files)
    (run / "metrics.json").write_text("{}")
    (run / "model.safetensors").touch()
    _, begun = load_options(run / "run.json", {})
    assert checkpoints.finished_steps(run, begun | {"finished": 7}) == 7
    assert checkpoints.finished_steps(run, begun | {"finished": "7"}) is None
    delete_run(run)
    assert (run / "model.safetensors").exists() != isinstance(files, list)


@pytest.mark.parametrize("place", ["checkpoints", "tensorboard", "config.json"])
def test_nothing_is_deleted_and_nothing_is_read_before(
    left_alone, corpus, tmp_path, capsys, monkeypatch, place
):
    run = copy_of(left_alone, tmp_path)
    path = run / place
    if path.is_dir():
        shutil.rmtree(path)
        path.touch()
    else:
        path.unlink()
        path.mkdir()
    before = contents(run)
    monkeypatch.setattr(train, "load_data", None)
    for given in (arguments(corpus, run, "--overwrite"), ["--output", str(run), "--resume"]):
        assert f"{path} is a f" in error_of(capsys, 2, *given)
    assert contents(run) == before


def test_the_place_of_a_checkpoint_and_of_what_is_being_written(left_alone, tmp_path):
    """A file in the place of a checkpoint is passed over, and what stands where one is written goes."""
    run = copy_of(left_alone, tmp_path)
    for step in (4, 6):
        shutil.rmtree(run / "checkpoints" / f"checkpoint-{step}")
    (run / "checkpoints" / "checkpoint-6").symlink_to(tmp_path / "gone")
    (run / "checkpoints" / "unfinished").touch()
    (run / ".tokenizer").touch()
    shutil.rmtree(run / "tokenizer")
    with pytest.raises(
        RunError, match="no checkpoint in .* is whole .*checkpoint-6: manifest.json is missing"
    ):
        checkpoints.last_checkpoint(run)
    (run / "checkpoints" / "checkpoint-6").unlink()
    (run / "checkpoints" / "checkpoint-9").symlink_to(tmp_path / "gone")
    shutil.copytree(left_alone / "checkpoints" / "checkpoint-4", run / "checkpoints" / "checkpoint-4")
    assert cli.main(["--output", str(run), "--resume"]) == 0
    assert same_result(left_alone, run)
    assert set(checkpoints.checkpoints_by_step(run)) == {4, 6}


# --- Mistakes are found before the text is read ------------------------------------------------------------------


@pytest.mark.parametrize(
    "mistake, said",
    [
        (["--device", "cuda"], "--device is cuda but torch finds no usable GPU"),
        (["--report-to", "tensorbord"], "--report-to tensorbord"),
        (["--tokenizer", "/nowhere/at/all"], "tokenizer '/nowhere/at/all'"),
        (["--model", "/nowhere/at/all"], "--model '/nowhere/at/all'"),
        (["--model", "FILE"], "--model "),
        (["--cache-dir", "FILE"], "the cache cannot be used in FILE: "),
        (["--held-out", "1.5"], "--held-out is 1.5"),
        (["--masking", "noun-phrases"], "--masking is 'noun-phrases': no textblob"),
        (["--corpus", "FILE", "missing.txt"], "missing.txt' does not exist"),
    ],
)
def test_a_mistake_is_found_before_the_text_is_read(corpus, tmp_path, capsys, monkeypatch, mistake, said):
    def missing(_):
        raise ImportError("no textblob")

    file = tmp_path / "notes.txt"
    file.write_text("Some.")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(data, "phrase_finder", missing)
    if "--corpus" not in mistake:
        monkeypatch.setattr(data, "load_documents", None)
    monkeypatch.setattr("spanbert_ext.pretrain.text.corpus.read_source", None)
    given = [str(file) if word == "FILE" else word for word in mistake]
    errors = error_of(capsys, 2, *arguments(corpus, tmp_path / "out", *given))
    assert said.replace("FILE", str(file)) in errors
    assert not any(path.is_file() for path in (tmp_path / "out").rglob("*"))


def test_a_prepared_corpus_of_one_document_and_its_tokenizer(tmp_path, capsys, monkeypatch):
    """It is divided into passages; what is wrong with its tokenizer is found before its shards are read."""
    from spanbert_ext.pretrain import prepare_cli

    corpus = write_corpus(tmp_path, characters=1500)
    corpus.write_text(" ".join(corpus.read_text().split()))
    prepared = tmp_path / "prepared"
    command = ["--corpus", str(corpus), "--output", str(prepared), "--vocab-size", "300", "--workers", "1"]
    assert prepare_cli.main([*command, "--no-progress", "--unused-ids", "0"]) == 0
    options = Options(
        corpus=[str(prepared)], cache_dir=str(tmp_path / "cache"), held_out=0.2, block_size=32, max_steps=4
    ).resolve()
    loaded = data.load_data(options, tmp_path)
    assert loaded.facts["documents"] == 1 and loaded.facts["held_out_passages"] > 2
    assert len(loaded.train) > 2 * len(loaded.held_out) > 10  # passages are few, the text is Python's own
    pairs = data.load_data(dataclasses.replace(options, rows="google-pairs"), tmp_path)
    both = [{row["input_ids"][1:-1].tobytes() for row in rows} for rows in (pairs.train, pairs.held_out)]
    assert both[1] and not both[0] & both[1]

    monkeypatch.setattr(data, "load_prepared", None)
    path = prepared / "tokenizer" / "tokenizer.json"
    whole = path.read_text()
    path.write_text(whole[:100])
    errors = error_of(capsys, 2, *arguments(prepared, tmp_path / "out"))
    assert f"cannot load tokenizer '{prepared}/tokenizer'" in errors
    assert f"copy the folder {prepared} again, or make it again by spanbert-prepare --overwrite" in errors
    path.write_text(whole)
    shutil.copytree(prepared / "tokenizer", tmp_path / "words")
    (tmp_path / "words" / "tokenizer.json").write_text(whole.replace('"[MASK]": 4', '"[MASK]": 4, "zz": 300'))
    other = ["--tokenizer", str(tmp_path / "words")]
    errors = error_of(capsys, 2, *arguments(prepared, tmp_path / "out", *other))
    assert "was prepared with another tokenizer" in errors
