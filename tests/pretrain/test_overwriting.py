# SPDX-License-Identifier: Apache-2.0
"""`--overwrite` and a run that is to begin with what lies in the folder of the old one."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from tiny_models import one_thread  # noqa: F401
from tiny_runs import arguments, contents, copy_of, error_of

from spanbert_ext.pretrain import cli
from spanbert_ext.pretrain.run import train
from spanbert_ext.pretrain.run.checkpoints import RunError
from spanbert_ext.pretrain.run.overwriting import check_not_read
from spanbert_ext.pretrain.settings.options import Options


@pytest.mark.parametrize("plan_only", [[], ["--plan-only"]])
def test_a_model_is_not_deleted_by_the_run_that_starts_from_it(left_alone, corpus, capsys, plan_only):
    before = contents(left_alone)
    given = arguments(corpus, left_alone, "--overwrite", "--model", str(left_alone), *plan_only)
    errors = error_of(capsys, 2, *given)
    assert f"--model {left_alone} lies in --output {left_alone}, " in errors and len(errors.splitlines()) == 1
    assert "model.safetensors" in before and contents(left_alone) == before


@pytest.fixture
def out(tmp_path):
    """A run's folder whose checkpoints are on another disk."""
    folder, disk = tmp_path / "out", tmp_path / "disk"
    (folder / "tokenizer").mkdir(parents=True)
    (disk / "checkpoint-4").mkdir(parents=True)
    (folder / "checkpoints").symlink_to(disk)
    (folder / "model.safetensors").touch()
    (tmp_path / "alias").symlink_to(folder)
    (tmp_path / "of_links").mkdir()
    (tmp_path / "of_links" / "model.safetensors").symlink_to(folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("model", "out"),
        ("model", "alias"),
        ("model", "of_links"),
        ("model", "disk/checkpoint-4"),
        ("tokenizer", "out/tokenizer"),
        ("tokenizer", "of_links/../out/tokenizer"),
        ("corpus", "out"),
        ("corpus", "alias/*.txt"),
        ("corpus", "dataset:PLACE/out/checkpoints:train"),
    ],
)
def test_whatever_a_run_begins_with_is_looked_for_in_its_output(out, tmp_path, option, name):
    place = name.replace("PLACE", str(tmp_path)) if ":" in name else str(tmp_path / name)
    given = {option: [place] if option == "corpus" else place}
    options = Options(output=str(out), **given)
    check_not_read(options, out)  # of a run that deletes nothing
    options.overwrite = True
    with pytest.raises(RunError) as refused:
        check_not_read(options, out)
    assert str(refused.value).startswith(
        f"--{option} {place} lies in --output {out}, which --overwrite deletes"
    )


def test_what_lies_elsewhere_may_be_read(out, tmp_path, monkeypatch):
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "config.json").touch()
    for given in (
        {"model": str(tmp_path / "start"), "corpus": [str(tmp_path)]},  # a text around it is none in it
        {"model": "base", "tokenizer": str(tmp_path / "out-tokenizer")},
    ):
        check_not_read(Options(output=str(out), overwrite=True, **given), out)
    monkeypatch.chdir(out)  # names of the hub are no names in the working folder
    hub = Options(model="bert-base-cased", tokenizer="some/words", corpus=["dataset:some/text"])
    hub.overwrite = True
    check_not_read(hub, out)


def test_what_the_new_run_keeps_of_its_model_is_read_before_the_old_one_is_deleted(
    left_alone, corpus, tmp_path, monkeypatch
):
    run = copy_of(left_alone, tmp_path)
    before = contents(run)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "facts_of", killed)
    assert cli.main(arguments(corpus, run, "--overwrite")) == 130
    assert contents(run) == before
