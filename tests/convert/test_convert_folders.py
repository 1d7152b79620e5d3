# SPDX-License-Identifier: Apache-2.0
"""Folders in, and what other programs read out: hub-style encoders, BERTs of any kind, the old format."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from families_samples import family_config
from hub_folders import CONFIG, HEADS, command, encoder_alone, hub_folder
from published_samples import (
    VOCABULARY,
    V,
    assert_same_logits,
    logits_of,
    plain_encoder,
    plain_logits,
    prefixed,
    published_state,
    sample_ids,
    save,
)
from safetensors.torch import load_file, save_file
from tiny_models import make_model, one_thread, tiny_tokenizer, untie  # noqa: F401
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertConfig,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertModel,
)

from spanbert_ext import SpanBertForPreTraining
from spanbert_ext.convert.checkpoint_file import CheckpointError
from spanbert_ext.convert.model_folders import load_model_folder

# --- Encoders alone ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
@pytest.mark.parametrize("gamma", [True, False])
def test_a_hub_folder_to_our_model_to_question_answering(tmp_path, capsys, kind, gamma):
    source = hub_folder(tmp_path / "spanbert-base-cased", encoder_alone(gamma), kind)
    assert command(source, "--output", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "MLM head and SBO head: initialised at random (seed 0)" in " ".join(said.split())
    ids, state = sample_ids(), encoder_alone()
    expected = plain_encoder({name: x.double() for name, x in state.items()}, ids, HEADS)
    for read in (AutoModel, AutoModelForQuestionAnswering, AutoModelForMaskedLM, SpanBertForPreTraining):
        model = read.from_pretrained(tmp_path / "out").double().eval()
        x = model.base_model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(x, expected, rtol=1e-10, atol=1e-10)
    model = SpanBertForPreTraining.from_pretrained(tmp_path / "out")
    assert model.config.architectures == ["BertForMaskedLM"] and model.config.layer_norm_eps == 1e-12
    assert 0.015 < model.sbo.dense1.weight.std() < 0.025


def test_random_heads_are_the_same_each_time_and_leave_the_callers_draws_alone(tmp_path):
    source = hub_folder(tmp_path / "in", encoder_alone())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for name in ("a", "b"):
        assert command(source, "--output", tmp_path / name) == 0
    assert torch.equal(torch.get_rng_state(), before)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_an_encoder_that_was_saved_without_its_prefix(tmp_path):
    torch.manual_seed(1)
    config = BertConfig(
        **{name: x for name, x in CONFIG.items() if name not in ("model_type", "directionality")}
    )
    encoder = BertModel(config).eval()
    encoder.save_pretrained(tmp_path / "in")
    found = load_model_folder(tmp_path / "in")
    assert found.random == ("MLM head", "SBO head")
    assert found.left_out == ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
    ids = sample_ids()
    x = found.model.eval().bert(input_ids=ids).last_hidden_state
    torch.testing.assert_close(x, encoder(input_ids=ids).last_hidden_state)


def test_a_fine_tuned_folder_leaves_its_head_out(tmp_path, capsys):
    config = BertConfig(
        **{name: x for name, x in CONFIG.items() if name not in ("model_type", "directionality")}
    )
    BertForQuestionAnswering(config).save_pretrained(tmp_path / "in")
    assert command(tmp_path / "in", "--output", tmp_path / "out") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "left out qa_outputs.bias, qa_outputs.weight" in said
    assert not any("qa_outputs" in name for name in load_file(tmp_path / "out" / "model.safetensors"))


def test_a_bert_with_an_nsp_head_keeps_it(tmp_path):
    config = BertConfig(
        **{name: x for name, x in CONFIG.items() if name not in ("model_type", "directionality")}
    )
    native = BertForPreTraining(config).eval()
    native.save_pretrained(tmp_path / "in")
    found = load_model_folder(tmp_path / "in")
    assert found.parts == ("MLM head", "pooler", "NSP head") and found.random == ("SBO head",)
    ids = sample_ids()
    output, expected = found.model.eval()(input_ids=ids), native(input_ids=ids)
    torch.testing.assert_close(output.logits, expected.prediction_logits)
    torch.testing.assert_close(output.seq_relationship_logits, expected.seq_relationship_logits)


# --- Other folders -----------------------------------------------------------------------------------------------


def test_a_folder_of_ours_stays_what_it_is(tmp_path):
    model = make_model(position_slots=7)
    model.save_pretrained(tmp_path / "in")
    tiny_tokenizer().save_pretrained(tmp_path / "in")
    assert command(tmp_path / "in", "--output", tmp_path / "out") == 0
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("in", "out"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    again = SpanBertForPreTraining.from_pretrained(tmp_path / "out")
    assert again.config.span_pretraining == model.config.span_pretraining
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == tiny_tokenizer().get_vocab()


@pytest.mark.parametrize("model_type", ["roberta", "electra", "albert"])
def test_another_family_gets_an_sbo(tmp_path, model_type):
    from transformers import AutoModelForMaskedLM as native_class

    torch.manual_seed(2)
    native = native_class.from_config(family_config(model_type)).eval()
    native.save_pretrained(tmp_path / "in")
    found = load_model_folder(tmp_path / "in")
    assert found.random == ("SBO head",) and found.parts == ("MLM head",)
    ids = torch.randint(5, 30, (2, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.model.eval()(input_ids=ids).logits, native(input_ids=ids).logits)
    with pytest.raises(SystemExit):
        command(
            tmp_path / "in", "--output", tmp_path / "out", "--to", "legacy", "--legacy", "--to", "fairseq"
        )
    assert command(tmp_path / "in", "--output", tmp_path / "out", "--legacy") == 2


def test_an_untied_bert_of_the_native_kind_is_read_by_transformers(tmp_path):
    model = make_model()
    model.config.tie_word_embeddings = False
    untie(model)
    model.get_output_embeddings().weight.data += 1
    model.save_pretrained(tmp_path / "in")
    assert command(tmp_path / "in", "--output", tmp_path / "out", "--to", "fairseq") == 2
    again = load_model_folder(tmp_path / "in").model
    assert torch.equal(again.get_output_embeddings().weight, model.get_output_embeddings().weight)
    assert not torch.equal(again.get_output_embeddings().weight, again.get_input_embeddings().weight)


def test_weights_in_several_files(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "in", max_shard_size="20KB")
    files = sorted((tmp_path / "in").glob("*.safetensors"))
    assert len(files) > 2
    found = load_model_folder(tmp_path / "in")
    assert found.random == () and f"and {len(files) - 1} more" in found.what
    own = found.model.state_dict()
    assert all(torch.equal(own[name], x) for name, x in model.state_dict().items())


@pytest.mark.parametrize("config", [{}, {"model_type": "roberta", "max_position_embeddings": 40}])
def test_planted_code_in_a_folder_is_refused_by_name(tmp_path, capsys, config):
    trace = Path(tmp_path / "run")
    plant = type("Plant", (), {"__reduce__": lambda self: (os.system, (f"touch {trace}",))})()
    source = hub_folder(tmp_path / "in", published_state() | {"bert.extra": plant}, config=config)
    assert command(source, "--output", tmp_path / "out") == 2
    assert "posix.system" in capsys.readouterr().err
    assert not trace.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_that_stand_beside_the_models_own(tmp_path, kind):
    """Of another type, or of another model, as ELECTRA's generator: transformers does not load them."""
    state = published_state(15)
    source = hub_folder(tmp_path / "in", state, kind)
    if kind == "safetensors":
        save_file({name: x.half() for name, x in state.items()}, source / "model.fp16.safetensors")
    else:
        save({"generator": torch.zeros(2)}, source / "pytorch_model.generator.bin")
        save_file({"adapter": torch.zeros(2)}, source / "adapter.safetensors")
    found = load_model_folder(source)
    assert found.parts == ("MLM head", "SBO head") and found.left_out == () and found.dtypes == ("float32",)
    assert torch.equal(found.model.sbo.bias, state["cls.pair_target_predictions.bias"])


@pytest.mark.parametrize(
    "key", ["bert.encoder.layer.0.attention.self.distance_embedding.weight", "bert.embeddings.task.weight"]
)
def test_an_encoder_of_which_ours_would_leave_something_out(tmp_path, key):
    """As with relative positions, which transformers had until version 5: the rest computes something else."""
    hub_folder(tmp_path / "in", published_state() | {key: torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match=f"{key} is unknown"):
        load_model_folder(tmp_path / "in")


SHARED = "bert.encoder.layer.1.output.dense.bias"


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop(SHARED), f"{SHARED} is missing"),
        (lambda state: state.update({SHARED: torch.zeros(3)}), f"{SHARED} has shape [3]"),
        (lambda state: state.update({SHARED: state[SHARED] * torch.nan}), f"{SHARED} holds NaN"),
        (lambda state: state.pop("cls.predictions.bias"), "cls.predictions"),
    ],
)
def test_a_folder_with_a_fault_in_its_weights(tmp_path, ours, change, said):
    if ours:
        make_model().save_pretrained(tmp_path / "in")
        path = tmp_path / "in" / "model.safetensors"
        state = load_file(path)
        change(state)
        save_file(state, path, {"format": "pt"})
    else:
        state = published_state(gamma=False)
        change(state)
        hub_folder(tmp_path / "in", state)
    with pytest.raises(CheckpointError) as error:
        load_model_folder(tmp_path / "in")
    assert said in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"hidden_size": 32}, "hidden_size is 32, but the tensors have 64"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3, but the tensors have 2"),
        ({"vocab_size": V + 1}, f"vocab_size is {V + 1}, but the tensors have {V}"),
        ({"max_position_embeddings": 99}, "max_position_embeddings is 99"),
        ({"model_type": "gpt2"}, "cannot be loaded"),
        ({"model_type": "no-such-type"}, "config.json cannot be read"),
    ],
)
def test_a_configuration_of_another_model(tmp_path, config, said):
    with pytest.raises(CheckpointError) as error:
        load_model_folder(hub_folder(tmp_path / "in", published_state(), config=config))
    assert said in str(error.value), str(error.value)


def test_a_decoder_that_is_stored_beside_embeddings_of_another_shape_is_said(tmp_path):
    """Of another family; newer transformers compare the two, of which they have left out one."""
    from transformers import AutoModelForMaskedLM as native_class

    native = native_class.from_config(family_config("roberta"))
    native.config.vocab_size = 99
    native.config.save_pretrained(tmp_path)
    save(native.state_dict(), tmp_path / "pytorch_model.bin")
    either = r"the embeddings have another shape than by config\.json|has shape \[.*\], expected \[.*\] by config\.json"
    with pytest.raises(CheckpointError, match=either):
        load_model_folder(tmp_path)


def test_folders_with_less_in_them(tmp_path, capsys):
    def error_of(source) -> str:
        assert command(source, "--output", tmp_path / "out") == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    (tmp_path / "in").mkdir()
    assert "has no config.json" in error_of(tmp_path / "in")
    (tmp_path / "in" / "config.json").write_text("{")
    assert "config.json cannot be read" in error_of(tmp_path / "in")
    (tmp_path / "in" / "config.json").write_text(json.dumps(CONFIG))
    assert "has no weights" in error_of(tmp_path / "in")
    (tmp_path / "in" / "model.safetensors").write_bytes(b"nothing")
    assert "model.safetensors" in error_of(tmp_path / "in")


# --- The old format ----------------------------------------------------------------------------------------------


def test_the_legacy_folder_is_what_old_programs_read(tmp_path):
    """Of the published scripts' loader and the coreference code: torch.load as it was, the names that they look for."""
    state = published_state(15)
    path = save(prefixed(state), tmp_path / "model.pt")
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    arguments = (
        path,
        "--output",
        tmp_path / "old",
        "--vocab",
        tmp_path / "vocab.txt",
        "--attention-heads",
        HEADS,
    )
    assert command(*arguments, "--legacy") == 0
    names = {file.name for file in (tmp_path / "old").iterdir()}
    assert names == {"config.json", "bert_config.json", "pytorch_model.bin", "vocab.txt"}
    assert not (tmp_path / "old" / "pytorch_model.bin").read_bytes().startswith(b"PK")
    found = torch.load(tmp_path / "old" / "pytorch_model.bin")
    assert type(found) is dict and {x.dtype for x in found.values()} == {torch.float32}
    present = published_state(15, gamma=False)
    assert found.keys() == present.keys()
    assert all(torch.equal(found[name], x) for name, x in present.items())
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    assert config == json.loads((tmp_path / "old" / "bert_config.json").read_text())
    assert CONFIG.items() <= config.items()
    assert (tmp_path / "old" / "vocab.txt").read_text() == "".join(f"{token}\n" for token in VOCABULARY)
    tf_names = [to_tensorflow_name(name) for name in found]  # as the coreference code renames
    for name in ("bert/embeddings/LayerNorm/gamma", "bert/encoder/layer_1/attention/self/query/kernel"):
        assert name in tf_names
    again = load_model_folder(tmp_path / "old")  # nothing is lost
    assert again.random == () and again.model.config.span_pretraining["position_slots"] == 15
    assert_same_logits(logits_of(again.model, sample_ids()), plain_logits(state, sample_ids(), HEADS))


def to_tensorflow_name(name: str) -> str:
    name = name.replace("layer.", "layer_").replace("embeddings.weight", "embeddings").replace(".", "/")
    name = name.replace("LayerNorm/weight", "LayerNorm/gamma").replace("LayerNorm/bias", "LayerNorm/beta")
    return name.replace("weight", "kernel")


def test_an_encoder_alone_is_one_in_the_old_format_too(tmp_path, capsys):
    source = hub_folder(tmp_path / "in", encoder_alone())
    assert command(source, "--output", tmp_path / "old", "--legacy") == 0
    assert "MLM head and SBO head: not written either" in " ".join(capsys.readouterr().out.split())
    assert torch.load(tmp_path / "old" / "pytorch_model.bin").keys() == encoder_alone(gamma=False).keys()
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "old").double().eval()
    ids = sample_ids()
    expected = plain_encoder({name: x.double() for name, x in encoder_alone().items()}, ids, HEADS)
    torch.testing.assert_close(model.bert(input_ids=ids).last_hidden_state, expected, rtol=1e-10, atol=1e-10)


def test_nsp_in_the_old_format(tmp_path):
    path = save(published_state(nsp=True), tmp_path / "model.pt")
    assert command(path, "--output", tmp_path / "old", "--legacy") == 0
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    assert config["architectures"] == ["BertForPreTraining"]
    assert load_model_folder(tmp_path / "old").parts == ("MLM head", "SBO head", "pooler", "NSP head")
