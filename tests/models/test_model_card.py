# SPDX-License-Identifier: Apache-2.0
"""The card of a saved model: what it says, whose word it is, what goes to the hub."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("transformers")

import transformers
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.repocard import metadata_load
from tiny_models import make_model, one_thread, tiny_config  # noqa: F401
from transformers import AutoModelForMaskedLM, BertForMaskedLM

from spanbert_ext.models.model_card import CARD, TAGS, is_our_card
from spanbert_ext.models.pretraining import SpanBertForPreTraining

OWN = "---\nlicense: mit\n---\n# Mine\n"


def saved(folder: Path, **options: Any) -> str:
    make_model().save_pretrained(folder, **options)
    return (folder / CARD).read_text(encoding="utf-8")


def test_what_the_card_says(tmp_path):
    text = saved(tmp_path / "my-model")
    data = metadata_load(tmp_path / "my-model" / CARD)
    assert data == {"library_name": "transformers", "pipeline_tag": "fill-mask", "tags": [*TAGS]}
    assert ModelCard(text).text.strip().startswith("# my-model")
    assert "type `bert` (2 layers of 32, 0.0 M parameters), made for" in text and "`sbo.*`" in text
    assert "`cls.*` are the masked-language-model head" in text and "third head" not in text
    assert 'SpanBertForPreTraining.from_pretrained("my-model")' in text
    assert f"transformers {transformers.__version__}" in text
    for title in ("## Text", "## Training", "## Metrics"):
        assert title not in text  # nobody has said anything of these
    assert (
        "third head" in (saved_with_nsp := saved_text(make_model(nsp=True), tmp_path / "b"))
        and saved_with_nsp
    )


def saved_text(model: SpanBertForPreTraining, folder: Path) -> str:
    model.save_pretrained(folder)
    return (folder / CARD).read_text(encoding="utf-8")


def test_what_the_user_says(tmp_path):
    facts = {"base_model": "bert-base-cased", "language": ["en", "de"], "license": "apache-2.0"}
    facts |= {"corpus": ["wiki", "dataset:me/text"], "training": "100 steps.", "metrics": "| MLM | 2.5 |"}
    text = saved(tmp_path, card=facts)
    data = ModelCard(text).data
    assert (data.base_model, data.language, data.license) == ("bert-base-cased", ["en", "de"], "apache-2.0")
    assert "* `wiki`\n* `dataset:me/text`\n" in text and "trained further from `bert-base-cased`" in text
    assert "## Training\n\n100 steps.\n" in text and "## Metrics\n\n| MLM | 2.5 |\n" in text
    assert is_our_card(tmp_path / CARD)


@pytest.mark.parametrize(
    "card", [{"licence": "mit"}, {"license": None}, {"training": ["a"]}, "mit", {"corpus": [1]}]
)
def test_facts_of_another_form(tmp_path, card):
    with pytest.raises(TypeError, match="card (is|has) "):
        saved(tmp_path / "model", card=card)
    assert not (tmp_path / "model").exists()


def test_the_base_is_a_name_on_the_hub_alone(tmp_path):
    model = make_model()
    for name, base in {"bert-base-cased": "bert-base-cased", "me/mine": "me/mine"}.items():
        model.loaded_from = name
        assert ModelCard(saved_text(model, tmp_path)).data.base_model == base
    for name in (str(tmp_path), "/nowhere/model", "./model", ""):
        model.loaded_from = name
        assert ModelCard(saved_text(model, tmp_path)).data.base_model is None
    assert SpanBertForPreTraining.from_pretrained(tmp_path).loaded_from == tmp_path
    config = tiny_config()
    config._name_or_path = "bert-base-cased"  # its weights are not those
    model = SpanBertForPreTraining(config)
    assert model.name_or_path == "bert-base-cased"
    assert ModelCard(saved_text(model, tmp_path)).data.base_model is None


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_a_card_of_the_users_stays(tmp_path, end):
    (tmp_path / CARD).write_text(OWN.rstrip("\n") + end)
    assert saved(tmp_path) == OWN.rstrip("\n") + end
    (tmp_path / CARD).write_bytes(b"caf\xe9")
    make_model().save_pretrained(tmp_path)
    assert (tmp_path / CARD).read_bytes() == b"caf\xe9"


def test_a_card_is_replaced_until_somebody_changes_it(tmp_path):
    first = saved(tmp_path)
    second = saved(tmp_path, card={"license": "mit"})
    assert first != second and "license: mit" in second
    for changed in (
        second.replace("# ", "# My ", 1),
        second + "More.\n",
        second.replace("license: mit\n", ""),
        second.rpartition("<!--")[0],
        second.replace("\n", "\r\n"),
    ):
        (tmp_path / CARD).write_bytes(changed.encode())
        saved(tmp_path)
        assert (tmp_path / CARD).read_bytes() == changed.encode()


def test_what_stands_in_the_cards_place_is_left_alone(tmp_path):
    (tmp_path / CARD).mkdir()
    make_model().save_pretrained(tmp_path)
    assert (tmp_path / CARD).is_dir() and (tmp_path / "config.json").is_file()
    (tmp_path / CARD).rmdir()
    (tmp_path / CARD).symlink_to(tmp_path / "nowhere.md")
    make_model().save_pretrained(tmp_path)
    assert not (tmp_path / CARD).exists()


@pytest.fixture
def hub(monkeypatch, tmp_path) -> SimpleNamespace:
    """What huggingface_hub is asked for: `card` is that of the repository, `files` what was uploaded to it."""
    state = SimpleNamespace(card=None, files={}, asked=[])

    def create_repo(self, repo_id, **options):
        state.asked.append(("create_repo", repo_id, options["private"]))
        return SimpleNamespace(repo_id=repo_id if "/" in repo_id else f"me/{repo_id}")

    def download(self, repo_id, name, **options):
        path = tmp_path / "cached.md"
        path.write_text(state.card)
        return str(path)

    def upload(self, *, repo_id, folder_path, **options):
        state.asked.append(("upload", repo_id, options["commit_message"], options["revision"]))
        state.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "file_exists", lambda self, repo_id, name, **options: state.card is not None)
    monkeypatch.setattr(HfApi, "hf_hub_download", download)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    monkeypatch.setattr(
        HfApi,
        "create_branch",
        lambda self, repo_id, **options: state.asked.append(("branch", options["branch"])),
    )
    return state


def test_a_push_takes_the_card_along(hub):
    make_model().push_to_hub("mine", private=True, tags="english", card={"license": "mit"}, revision="first")
    assert hub.asked == [
        ("create_repo", "mine", True),
        ("branch", "first"),
        ("upload", "me/mine", "Upload BertForSpanPreTraining", "first"),
    ]
    assert {"config.json", "model.safetensors", CARD} <= hub.files.keys()
    assert json.loads(hub.files["config.json"])["architectures"] == ["BertForMaskedLM"]
    card = ModelCard(hub.files[CARD].decode())
    assert card.data.tags == [*TAGS, "english"] and card.data.license == "mit"
    assert 'from_pretrained("me/mine")' in card.text and "# mine" in card.text


def test_a_card_on_the_hub_is_replaced_only_while_it_is_ours(hub):
    model = make_model()
    hub.card = OWN
    model.push_to_hub("mine")
    assert hub.files[CARD].decode() == OWN
    hub.card = None
    model.push_to_hub("mine")
    hub.card = hub.files[CARD].decode()
    model.push_to_hub("mine", card={"license": "mit"})
    assert "license: mit" in hub.files[CARD].decode()


def test_a_card_that_is_named_takes_its_place(hub, tmp_path):
    (tmp_path / "card.md").write_text("# Another\n")
    hub.card = OWN
    make_model().push_to_hub("mine", card=tmp_path / "card.md")
    assert hub.files[CARD] == b"# Another\n"


def test_saving_with_a_push_sends_the_finished_folder(hub, tmp_path):
    saved(tmp_path / "model", push_to_hub=True, private=True, card={"license": "mit"})
    assert hub.asked[0] == ("create_repo", "model", True)
    assert hub.files[CARD] == (tmp_path / "model" / CARD).read_bytes() and b"license: mit" in hub.files[CARD]
    assert json.loads(hub.files["config.json"])["architectures"] == ["BertForMaskedLM"]
    (tmp_path / "model" / CARD).write_text(OWN)
    saved(tmp_path / "model", push_to_hub=True, repo_id="you/other", commit_message="Again")
    assert hub.asked[-1] == ("upload", "you/other", "Again", None) and hub.files[CARD].decode() == OWN


def test_a_tag_belongs_to_one_model():
    model = make_model()
    model.add_model_tags("english")
    assert model.model_tags == [*TAGS, "english"] and make_model().model_tags == [*TAGS]


def reported(load) -> str:
    """What transformers logs. caplog hears it a second time where CI is set, as its logger propagates there."""
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        load()
    finally:
        logger.removeHandler(handler)
    return "\n".join(heard)


def test_what_loading_reports_is_what_the_card_says(tmp_path):
    native = BertForMaskedLM(tiny_config())
    native.save_pretrained(tmp_path / "native")
    said = reported(lambda: SpanBertForPreTraining.from_pretrained(tmp_path / "native"))
    assert said.count("has no trained span-boundary head") == 1 and f"{tmp_path / 'native'} has no" in said
    model = make_model()
    for norm in (model.sbo.norm1, model.sbo.norm2):
        norm.weight.data.fill_(1.5)
    text = saved_text(model, tmp_path / "ours")
    assert reported(lambda: SpanBertForPreTraining.from_pretrained(tmp_path / "ours")) == ""
    said = reported(lambda: AutoModelForMaskedLM.from_pretrained(tmp_path / "ours"))
    unexpected = [
        line.split()[0] for line in said.splitlines() if "| UNEXPECTED" in line or "UNEXPECTED |" in line
    ]
    assert len(unexpected) == 10 and all(name.startswith("sbo.") for name in unexpected)
    assert "as UNEXPECTED, which is right" in text
