# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the published code: every form of the file, what its heads compute, and the way back."""

from __future__ import annotations

import argparse
import warnings

import pytest
import torch
from published_samples import (
    POSITION_DIM,
    SPAN,
    H,
    V,
    assert_same_logits,
    fairseq_there,
    logits_of,
    plain_logits,
    prefixed,
    published_state,
    run_checkpoint,
    sample_ids,
    save,
    with_own_objects,
)
from tiny_models import one_thread  # noqa: F401
from transformers import BertConfig

from spanbert_ext import SpanBertForPreTraining, load_fairseq_checkpoint
from spanbert_ext.convert.checkpoint_file import CheckpointError, read_checkpoint_file
from spanbert_ext.convert.write_fairseq import write_fairseq
from spanbert_ext.models import pretraining


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("form", ["flat", "flat with prefix", "with args", "with fairseq's objects"])
@pytest.mark.parametrize(("slots", "nsp"), [(20, False), (15, True)])
def test_both_heads_compute_what_the_published_model_does(tmp_path, old, form, slots, nsp):
    state, path, heads = published_state(slots, nsp), tmp_path / "model.pt", 1  # H / 64
    if form == "flat":
        save(state, path, old)
    elif form == "flat with prefix":
        save(prefixed(state), path, old)
    elif form == "with args":
        save(run_checkpoint(state, max_pair_targets=slots), path, old)
        heads = 4  # that the arguments say
    else:
        with_own_objects(run_checkpoint(state), path)
        heads = 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_fairseq_checkpoint(path)
    assert isinstance(model, SpanBertForPreTraining)
    options = model.config.span_pretraining
    assert (options["position_slots"], options["position_dim"], options["nsp"]) == (slots, POSITION_DIM, nsp)
    assert model.config.num_attention_heads == heads
    assert model.config.hidden_dropout_prob == (0.1 if heads == 1 else 0.2)
    assert {x.dtype for x in model.parameters()} == {torch.float32}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    ids = sample_ids()
    assert_same_logits(logits_of(model, ids), plain_logits(state, ids, heads))


def test_the_losses_are_those_of_the_logits(tmp_path):
    state = published_state(15)
    model = load_fairseq_checkpoint(save(prefixed(state), tmp_path / "model.pt")).double().eval()
    ids, (start, end) = sample_ids(), SPAN
    labels = torch.full_like(ids, -100)
    labels[:, start:end] = torch.tensor([7, 9, 11, 13, 15])
    masked = torch.arange(start, end).expand(len(ids), -1).contiguous()
    output = model(
        input_ids=ids,
        labels=labels,
        masked_positions=masked,
        left_boundary=torch.full_like(masked, start - 1),
        right_boundary=torch.full_like(masked, end),
    )
    expected = plain_logits(state, ids, 1)
    target = labels[:, start:end].flatten()
    for head, logits in (("mlm", expected["MLM"][:, start:end]), ("sbo", expected["SBO"])):
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target)
        torch.testing.assert_close(output[f"{head}_loss"].double(), loss, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_become_float32(tmp_path, dtype):
    state = published_state(dtype=dtype)
    model = load_fairseq_checkpoint(save(state, tmp_path / "model.pt"))
    own = model.state_dict()
    for name in ("bert.encoder.layer.1.output.dense.weight", "cls.predictions.bias"):
        assert own[name].dtype == torch.float32
        torch.testing.assert_close(own[name], state[name].float(), rtol=0, atol=0)
    found = logits_of(model, sample_ids())
    assert_same_logits(found, plain_logits({name: x.float() for name, x in state.items()}, sample_ids(), 1))


def test_layer_norms_may_have_their_present_names(tmp_path):
    state, present = published_state(), published_state(gamma=False)
    model = load_fairseq_checkpoint(save(present, tmp_path / "model.pt"))
    assert_same_logits(logits_of(model, sample_ids()), plain_logits(state, sample_ids(), 1))


def test_safetensors_are_read_too(tmp_path):
    from safetensors.torch import save_file

    state = published_state(15)
    save_file({name: x.clone() for name, x in prefixed(state).items()}, tmp_path / "model.safetensors")
    model = load_fairseq_checkpoint(tmp_path / "model.safetensors")
    assert_same_logits(logits_of(model, sample_ids()), plain_logits(state, sample_ids(), 1))


def test_copies_may_be_left_out(tmp_path):
    state = published_state()
    for name in [name for name in state if name.endswith("decoder.weight")]:
        del state[name]
    model = load_fairseq_checkpoint(save(state, tmp_path / "model.pt"))
    assert_same_logits(logits_of(model, sample_ids()), plain_logits(published_state(), sample_ids(), 1))


def test_attention_heads_and_options_may_be_given(tmp_path):
    path = save(published_state(), tmp_path / "model.pt")
    model = load_fairseq_checkpoint(str(path), num_attention_heads=8, sbo_weight=0.5)
    assert model.config.num_attention_heads == 8
    assert model.config.span_pretraining["sbo_weight"] == 0.5
    assert_same_logits(logits_of(model, sample_ids()), plain_logits(published_state(), sample_ids(), 8))


@pytest.mark.parametrize(("slots", "mlm"), [(None, True), (20, False), (None, False)])
def test_a_head_that_is_not_there_is_random_and_said_to_be(tmp_path, slots, mlm):
    state = published_state(slots, mlm=mlm)
    with pytest.warns(UserWarning) as said:
        model = load_fairseq_checkpoint(save(state, tmp_path / "model.pt"))
    absent = [str(warning.message) for warning in said if "at random" in str(warning.message)]
    assert len(absent) == (slots is None) + (not mlm)
    assert any("no SBO head" in text for text in absent) is (slots is None)
    assert any("no MLM head" in text for text in absent) is (not mlm)
    std = (
        model.sbo.dense1.weight.std() if slots is None else model.cls.predictions.transform.dense.weight.std()
    )
    assert 0.015 < std < 0.025  # initializer_range, as every weight of a new model


def test_a_pooler_without_its_head_is_no_fault(tmp_path):
    state = published_state(nsp=True)
    for name in ("cls.seq_relationship.weight", "cls.seq_relationship.bias"):
        del state[name]
    model = load_fairseq_checkpoint(save(state, tmp_path / "model.pt"))
    assert not model.config.span_pretraining["nsp"] and model.bert.pooler is None


# --- The way back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("with_arguments", [False, True])
@pytest.mark.parametrize(("slots", "nsp"), [(20, False), (15, True)])
def test_fairseq_to_transformers_to_fairseq(tmp_path, dtype, with_arguments, slots, nsp):
    state, ids = published_state(slots, nsp, dtype=dtype), sample_ids()
    first = load_fairseq_checkpoint(save(prefixed(state), tmp_path / "first.pt"), num_attention_heads=4)
    first.save_pretrained(tmp_path / "folder")
    second = SpanBertForPreTraining.from_pretrained(tmp_path / "folder")
    write_fairseq(second, tmp_path, with_arguments, dtype)
    content = torch.load(tmp_path / "model.pt", weights_only=not with_arguments)
    found = content["model"] if with_arguments else content
    assert found.keys() == prefixed(state).keys()
    for name, x in state.items():
        assert found[f"decoder.{name}"].dtype == dtype
        assert torch.equal(found[f"decoder.{name}"], x), name
    third = load_fairseq_checkpoint(tmp_path / "model.pt", num_attention_heads=None if with_arguments else 4)
    expected = plain_logits({name: x.float() for name, x in state.items()}, ids, 4)
    for model in (first, second, third):
        assert_same_logits(logits_of(model, ids), expected)
    if with_arguments:
        assert content["args"].max_pair_targets == slots
        assert content["args"].no_nsp is not nsp
        assert content["last_optimizer_state"] is None
        assert {"optimizer_history", "extra_state"} <= content.keys()


def test_the_written_file_is_of_the_old_format_and_keeps_one_matrix(tmp_path):
    model = load_fairseq_checkpoint(save(published_state(), tmp_path / "source.pt"))
    write_fairseq(model, tmp_path)
    assert not (tmp_path / "model.pt").read_bytes().startswith(b"PK")
    content = torch.load(tmp_path / "model.pt")
    copies = [x.data_ptr() for name, x in content.items() if x.shape == (V, H)]
    assert len(copies) == 3 and len({*copies}) == 1


def test_an_untied_decoder_of_ours_is_refused_by_its_key(tmp_path):
    model = load_fairseq_checkpoint(save(published_state(), tmp_path / "model.pt"))
    decoder = model.get_output_embeddings()
    decoder.weight = torch.nn.Parameter(decoder.weight.detach() + 1)
    with pytest.raises(CheckpointError, match=r"cls\.predictions\.decoder\.weight differs from .*not tied"):
        write_fairseq(model, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("hidden_act", "gelu_new"), ("layer_norm_eps", 1e-5), ("is_decoder", True)]
)
def test_a_model_that_the_published_code_cannot_have_is_refused(tmp_path, name, value):
    sizes = {"vocab_size": V, "hidden_size": H, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = BertConfig(**sizes, intermediate_size=32, max_position_embeddings=16, **{name: value})
    model = SpanBertForPreTraining(config, position_dim=4)
    with pytest.raises(CheckpointError, match=f"config.{name} is {value!r}"):
        write_fairseq(model, tmp_path)
    assert not (tmp_path / "model.pt").exists()


def test_another_family_is_refused(tmp_path):
    from families_samples import family_config

    model = SpanBertForPreTraining(family_config("roberta"), position_dim=4)
    with pytest.raises(CheckpointError, match="config.model_type is 'roberta'"):
        write_fairseq(model, tmp_path)


@pytest.mark.parametrize(
    ("value", "said"), [(1e6, "does not fit into torch.float16"), (float("nan"), "holds NaN")]
)
def test_values_that_float16_does_not_have_are_refused(tmp_path, value, said):
    model = load_fairseq_checkpoint(save(published_state(), tmp_path / "source.pt"))
    model.sbo.bias.data[3] = value
    with pytest.raises(CheckpointError, match=rf"sbo\.bias {said}"):
        write_fairseq(model, tmp_path, dtype=torch.float16)


def test_fairseqs_objects_are_attributes_alone(tmp_path):
    with fairseq_there() as modules:
        config = modules["fairseq.models.pair_bert"].BertConfig()
        config.__dict__["hidden_size"] = H
        save({"args": argparse.Namespace(config=config)}, tmp_path / "model.pt")
    found = read_checkpoint_file(tmp_path / "model.pt")["args"].config
    assert vars(found) == {"hidden_size": H} and type(found).__module__.startswith("spanbert_ext.")


def test_the_model_can_be_pickled_and_trained(tmp_path):
    import pickle

    model = load_fairseq_checkpoint(save(published_state(15), tmp_path / "model.pt"))
    assert model.training and all(x.requires_grad for x in model.parameters())
    assert type(pickle.loads(pickle.dumps(model))) is pretraining.BertForSpanPreTraining
