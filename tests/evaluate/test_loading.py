"""Checkpoints as tasks load them: all of an encoder, and new weights that a seed fixes."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("transformers")

import tiny_tasks
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForQuestionAnswering, AutoModelForSequenceClassification

from spanbert_ext.evaluate.tasks.form import EvaluationError
from spanbert_ext.evaluate.tasks.loading import load_model, load_tokenizer, longest_row


@pytest.fixture
def checkpoint(tmp_path):
    return tiny_tasks.save_checkpoint(tmp_path / "model", tiny_tasks.tokenizer_of(["a b c"]))


def weights_of(checkpoint, keep) -> None:
    path = checkpoint.folder / "model.safetensors"
    kept = {name: value for name, value in load_file(path).items() if keep(name)}
    save_file(kept, path, metadata={"format": "pt"})


def test_new_weights_are_the_seeds_and_the_encoder_is_the_checkpoints(checkpoint) -> None:
    first, again, other = (load_model(AutoModelForQuestionAnswering, checkpoint, seed) for seed in (1, 1, 2))
    saved = load_file(checkpoint.folder / "model.safetensors")
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        if name in saved:
            assert torch.equal(value, saved[name]) and torch.equal(value, other.state_dict()[name])
    assert not torch.equal(first.qa_outputs.weight, other.qa_outputs.weight)


def test_what_is_drawn_afterwards_does_not_depend_on_a_pooler(checkpoint, tmp_path) -> None:
    without = torch.randn(3) if load_model(AutoModel, checkpoint, 1) is not None else None
    model = load_model(AutoModel, checkpoint, 1)
    model.save_pretrained(tmp_path / "pooled")
    tiny_tasks.tokenizer_of(["a b c"]).save_pretrained(tmp_path / "pooled")
    load_model(AutoModel, type(checkpoint)("pooled", tmp_path / "pooled", ""), 1)
    assert torch.equal(torch.randn(3), without)


@pytest.mark.parametrize(
    "auto_class", [AutoModel, AutoModelForQuestionAnswering, AutoModelForSequenceClassification]
)
def test_a_missing_layer_is_refused_and_a_missing_pooler_is_not(checkpoint, auto_class) -> None:
    load_model(auto_class, checkpoint, 0)  # a masked language model's folder has no pooler
    weights_of(checkpoint, lambda name: "attention.self.query" not in name)
    with pytest.raises(EvaluationError, match=r"lacks 2 weights of its encoder \(.*query"):
        load_model(auto_class, checkpoint, 0)


def test_keys_without_the_encoders_prefix_are_found(checkpoint) -> None:
    """As sentence-transformers saves an encoder."""
    path = checkpoint.folder / "model.safetensors"
    bare = {n.removeprefix("bert."): v.clone() for n, v in load_file(path).items() if n.startswith("bert.")}
    save_file(bare, path, metadata={"format": "pt"})
    model = load_model(AutoModelForQuestionAnswering, checkpoint, 0)
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(model.bert.state_dict()[name], bare[name])


def test_a_tokenizer_of_another_model_is_refused(checkpoint) -> None:
    tiny_tasks.tokenizer_of(["many other words than those of the model"]).save_pretrained(checkpoint.folder)
    with pytest.raises(EvaluationError, match="they do not belong together"):
        load_tokenizer(checkpoint)


def test_a_tokenizer_without_the_tokens_of_a_row_is_refused(checkpoint) -> None:
    path = checkpoint.folder / "tokenizer_config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"cls_token": None, "tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(EvaluationError, match="has no cls_token"):
        load_tokenizer(checkpoint)


def test_a_row_is_as_long_as_the_encoder_reads(checkpoint) -> None:
    assert longest_row(checkpoint, 384) == 128
    assert longest_row(checkpoint, 64) == 64
