# SPDX-License-Identifier: Apache-2.0
"""The model that a run starts from: sizes, and a tokenizer of other ids beside a checkpoint is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import VOCABULARY, tiny_config, tiny_tokenizer

pytest.importorskip("transformers")

from tokenizers import models
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from spanbert_ext.models.pretraining import SpanBertForPreTraining
from spanbert_ext.pretrain.rows.tokenizer import TokenizerError, load_tokenizer
from spanbert_ext.pretrain.run import train
from spanbert_ext.pretrain.run.starting_model import build_model, check_model
from spanbert_ext.pretrain.settings.options import OptionError, Options
from spanbert_ext.pretrain.settings.sizes import MODELS, RANDOM_START_RATES

COUNTS = np.zeros(len(VOCABULARY), dtype=np.int64)


@pytest.fixture
def checkpoint(tmp_path) -> str:
    SpanBertForPreTraining(tiny_config()).save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


def options_of(model: str, **given) -> Options:
    return Options(model=model, block_size=64, **given).resolve()


def built(options: Options, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return build_model(options, check_model(options), tokenizer, COUNTS)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("base", "large")])
def test_a_size_is_what_it_says(name):
    """tiny 2x128, mini 4x256, small 6x384, with heads of 64."""
    expected = {"demo": (1, 128), "tiny": (2, 128), "mini": (4, 256), "small": (6, 384)}[name]
    model = built(options_of(name), tiny_tokenizer())
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size) == expected
    assert config.hidden_size == 64 * config.num_attention_heads
    assert config.intermediate_size == 4 * config.hidden_size
    assert torch.isfinite(model.get_output_embeddings().bias).all()


def test_every_size_but_the_demo_has_a_rate_on_own_text():
    assert {"demo", *RANDOM_START_RATES} == MODELS.keys()


def test_a_checkpoint_with_its_own_tokenizer(checkpoint):
    for tokenizer in (None, checkpoint):
        model = built(options_of(checkpoint, tokenizer=tokenizer), tiny_tokenizer())
        assert model.config.hidden_size == 32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_a_checkpoint_is_trained_whole(tmp_path, dtype):
    """As many on the hub are, the published SpanBERT's among them."""
    saved = SpanBertForPreTraining(tiny_config()).to(dtype)
    saved.save_pretrained(tmp_path / "half")
    assert AutoConfig.from_pretrained(tmp_path / "half").dtype == dtype
    model = built(options_of(str(tmp_path / "half")), tiny_tokenizer())
    assert {weight.dtype for weight in model.state_dict().values() if weight.is_floating_point()} == {
        torch.float32
    }
    assert torch.equal(model.sbo.dense1.weight, saved.sbo.dense1.weight.float())
    model.save_pretrained(tmp_path / "trained")
    assert AutoConfig.from_pretrained(tmp_path / "trained").dtype == torch.float32


def other_tokenizer(vocabulary: dict[str, int]):
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.model = models.WordPiece(vocabulary, unk_token="[UNK]")
    return tokenizer


def test_a_tokenizer_with_other_ids_is_refused(checkpoint):
    swapped = VOCABULARY | {"cat": VOCABULARY["dog"], "dog": VOCABULARY["cat"]}
    smaller = {token: index for token, index in VOCABULARY.items() if index < len(VOCABULARY) - 2}
    for vocabulary, message in (
        (swapped, "2 of 38 tokens differ, 'cat' has id 16 there and 17 here"),
        (smaller, "2 of 38 tokens differ, 'un' has id 36 there and none here"),
    ):
        with pytest.raises(OptionError, match=message) as refused:
            built(options_of(checkpoint, tokenizer="another"), other_tokenizer(vocabulary))
        assert "--tokenizer 'another'" in str(refused.value) and checkpoint in str(refused.value)
    with pytest.raises(OptionError, match="the tokenizer of --corpus has other ids"):  # of a prepared one
        built(options_of(checkpoint), other_tokenizer(swapped))


def test_a_tokenizer_of_the_same_ids_under_another_name_is_taken(checkpoint):
    built(options_of(checkpoint, tokenizer="a copy"), tiny_tokenizer())


def test_a_checkpoint_without_a_tokenizer_takes_any_that_fits(tmp_path):
    SpanBertForPreTraining(tiny_config()).save_pretrained(tmp_path / "bare")
    built(options_of(str(tmp_path / "bare"), tokenizer="mine"), tiny_tokenizer())
    larger = other_tokenizer(VOCABULARY | {"more": len(VOCABULARY)})
    with pytest.raises(OptionError, match="--tokenizer has .* tokens but --model .* has a vocabulary of"):
        built(options_of(str(tmp_path / "bare"), tokenizer="mine"), larger)


def test_positions_are_checked_before_the_text_is_read_and_the_remedy_named(
    checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr(train, "load_data", lambda *_: pytest.fail("the text was read first"))
    options = Options(model=checkpoint, block_size=512, max_steps=1, output=str(tmp_path / "out")).resolve()
    most = tiny_config().max_position_embeddings
    with pytest.raises(OptionError, match=f"has {most} positions: --block-size {most} is the most"):
        train.run(options)


@pytest.mark.parametrize(
    "kind, nsp, said", [("roberta", True, "--nsp cannot .* have no head"), ("gpt2", False, "gpt2")]
)
def test_another_family_is_refused_before_the_text_is_read(tmp_path, monkeypatch, kind, nsp, said):
    monkeypatch.setattr(train, "load_data", lambda *_: pytest.fail("the text was read first"))
    AutoConfig.for_model(kind).save_pretrained(tmp_path / "other")
    given = {"rows": "spanbert-pairs", "nsp": True} if nsp else {}
    options = Options(model=str(tmp_path / "other"), max_steps=1, output=str(tmp_path / "out"), **given)
    with pytest.raises(OptionError, match=said):
        train.run(options.resolve())


def test_a_checkpoint_without_weights_is_named(checkpoint):
    (Path(checkpoint) / "model.safetensors").unlink()
    with pytest.raises(OptionError, match=f"--model '{checkpoint}' cannot be loaded"):
        built(options_of(checkpoint), tiny_tokenizer())


def test_pairs_need_a_second_token_type(tmp_path):
    AutoConfig.for_model("roberta", type_vocab_size=1).save_pretrained(tmp_path)
    with pytest.raises(
        OptionError, match="--rows is spanbert-pairs .*roberta.* one token type.*--rows blocks"
    ):
        check_model(options_of(str(tmp_path), rows="spanbert-pairs"))


@pytest.mark.parametrize("planted", ["model", "tokenizer"])
def test_code_in_a_folder_is_not_run(tmp_path, monkeypatch, planted):
    """transformers would ask on standard input, and run it for a "y"."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder, trace = tmp_path / "planted", tmp_path / "trace"
    folder.mkdir()
    (folder / "planted.py").write_text(f"open({str(trace)!r}, 'w')\n")
    (folder / "config.json").write_text(
        '{"model_type": "planted", "auto_map": {"AutoConfig": "planted.Config"}}'
    )
    (folder / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": [null, "planted.Tokenizer"]}}'
    )
    with pytest.raises((OptionError, TokenizerError)):
        if planted == "model":
            check_model(options_of(str(folder)))
        else:
            load_tokenizer(str(folder))
    assert not trace.exists()


def test_a_home_of_nobody_is_a_name_like_any_other():
    with pytest.raises(OptionError, match="~nobody-here"):
        check_model(options_of("~nobody-here/bert/large"))
