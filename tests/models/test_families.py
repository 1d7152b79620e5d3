# SPDX-License-Identifier: Apache-2.0
"""Each encoder family: the native numbers, the native folder, and what people do to a model."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import transformers
from families_samples import family_config
from tiny_models import (  # noqa: F401
    INDICES,
    VOCABULARY,
    assert_close,
    gradients,
    make_batch,
    one_thread,
    same_step,
)
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForQuestionAnswering
from transformers.models.auto.modeling_auto import MODEL_FOR_QUESTION_ANSWERING_MAPPING

from spanbert_ext.models import fused_path
from spanbert_ext.models.families import FAMILIES
from spanbert_ext.models.head_loss import find_heads, head_loss
from spanbert_ext.models.native_classes import supported_types
from spanbert_ext.models.pretraining import SpanBertForPreTraining
from spanbert_ext.ops import span_pretraining_loss

ALL = supported_types()


def present(*names: str) -> list[str]:
    """Those of them that this transformers has."""
    return [name for name in names if name in ALL]


MAIN = present(
    *("bert", "roberta", "xlm-roberta", "camembert", "data2vec-text", "distilbert", "electra", "albert"),
    *("deberta", "deberta-v2", "mpnet", "modernbert", "eurobert", "nomic_bert", "longformer", "big_bird"),
)
# The first has sparse products of no other dtype; float64 gradients of the second are NaN.
FLOAT32 = {"mra", "longformer"}
TEXT = ("input_ids", "attention_mask")
EPS = {
    **dict.fromkeys(ALL, 3e-6),
    "distilbert": 1e-12,  # written into the native class
}
EPS_NAMES = {"modernbert": "norm_eps", "eurobert": "rms_norm_eps", "distilbert": None}


@pytest.fixture(autouse=True)
def fused(monkeypatch):
    """Nothing is called that could be read: each such module would be warned about."""
    warned: set[str] = set()
    monkeypatch.setattr(fused_path, "_warned", warned)
    yield
    assert not warned


@pytest.fixture(autouse=True, scope="module")
def quiet():
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.set_verbosity(before)
    transformers.logging.enable_progress_bar()


def built(model_type: str, **options) -> SpanBertForPreTraining:
    torch.manual_seed(1)
    training = {"evaluation_loss": "sum", "evaluation_logits": False}  # in eval() for want of dropout alone
    model = SpanBertForPreTraining(family_config(model_type, **options), position_dim=24, **training)
    with torch.no_grad():
        for p in model.parameters():  # biases that are zero and scales of one would hide mistakes
            if p.dim() == 1:
                p.add_(torch.randn_like(p), alpha=0.1)
    return model.eval() if model_type in FLOAT32 else model.double().eval()


def native_twin(model: SpanBertForPreTraining) -> nn.Module:
    config = family_config(model.config.model_type)
    native = model.native_class(config).to(model.dtype).eval()
    state = {name: x for name, x in model.state_dict().items() if not name.startswith("sbo.")}
    native.load_state_dict(state)
    return native


def text_of(batch: dict) -> dict:
    return {name: batch[name] for name in TEXT}


def tolerance(model_type: str) -> float:
    return 2e-5 if model_type in FLOAT32 else 1e-10


def assert_same(a: Tensor, b: Tensor, model_type: str) -> None:
    """As the same weights compute them at other addresses, where products may round otherwise."""
    close = tolerance(model_type)
    torch.testing.assert_close(a, b, rtol=close, atol=close)


def plain_sbo_loss(model: nn.Module, x: Tensor, batch: dict) -> Tensor:
    """The paper's formula, with modules that are called."""
    masked, left, right = (batch[name] for name in INDICES)
    row, entry = (left >= 0).nonzero(as_tuple=True)
    masked, left, right = masked[row, entry], left[row, entry], right[row, entry]
    head, decoder = model.sbo, model.get_output_embeddings()
    h = torch.cat([x[row, left], x[row, right], head.position_embeddings(masked - left - 1)], dim=-1)
    y = head.norm2(F.gelu(head.dense2(head.norm1(F.gelu(head.dense1(h))))))
    return F.cross_entropy(y @ decoder.weight.T + head.bias, batch["labels"][row, masked])


@pytest.mark.parametrize("model_type", ALL)
def test_native_numbers_and_the_papers_sbo(model_type):
    batch, model = make_batch(4), built(model_type)
    native, close = native_twin(model), tolerance(model_type)
    stock = text_of(batch) | {"labels": batch["labels"]}

    expected = native(**stock)
    logits_loss = F.cross_entropy(expected.logits.flatten(0, 1), batch["labels"].flatten())
    logits_loss.backward()
    output = model(**stock, return_logits=True)
    output.loss.backward()
    assert_same(output.logits, expected.logits, model_type)
    with torch.no_grad():  # a column that many of them do not have, and XLM reads in its own way
        typed = text_of(batch) | {"token_type_ids": batch["token_type_ids"]}
        assert_same(model(**typed).logits, native(**typed).logits, model_type)
    torch.testing.assert_close(output.loss, logits_loss, rtol=close, atol=0)
    # Some native classes compute the loss in float32, whatever the logits are.
    torch.testing.assert_close(output.loss, expected.loss.to(output.loss.dtype), rtol=1e-6, atol=0)
    assert_close(gradients(model), gradients(native), close)

    model.zero_grad()
    output = model(**text_of(batch), **{name: batch[name] for name in ("labels", *INDICES)})
    output.loss.backward()
    fused = gradients(model)
    model.zero_grad()
    x = model.base_model(**text_of(batch))[0]
    sbo = plain_sbo_loss(model, x, batch)
    loss = sbo + F.cross_entropy(
        model.head_shape.find(model).whole(x).flatten(0, 1), batch["labels"].flatten()
    )
    loss.backward()
    torch.testing.assert_close(output.sbo_loss, sbo, rtol=close, atol=0)
    torch.testing.assert_close(output.loss, loss, rtol=close, atol=0)
    assert_close(fused, gradients(model), close)

    head, decoder = model.head_shape.find(model), model.get_output_embeddings()
    reference = span_pretraining_loss(
        x.detach(),
        batch["labels"],
        *(batch[name] for name in INDICES),
        transform=head.transform,
        weight=decoder.weight,
        bias=decoder.bias,
        boundary_rows=model.sbo,
        sbo_bias=model.sbo.bias,
        impl="reference",
    )
    torch.testing.assert_close(reference.loss, loss, rtol=close, atol=0)


@pytest.mark.parametrize("model_type", ALL)
def test_the_sbo_has_the_familys_eps_and_widths(model_type):
    name = EPS_NAMES.get(model_type, "layer_norm_eps")
    model = SpanBertForPreTraining(
        family_config(model_type, **({name: 3e-6} if name else {})), position_dim=24
    )
    sbo, decoder = model.sbo, model.get_output_embeddings()
    assert sbo.norm1.eps == sbo.norm2.eps == EPS[model_type]
    assert sbo.dense1.out_features == 32 and sbo.dense2.out_features == decoder.weight.shape[1]
    assert sbo.bias.shape == (len(VOCABULARY),)
    width = {"albert": 24, "convbert": 24, "electra": 24, "roformer": 24, "rembert": 40}.get(model_type, 32)
    assert decoder.weight.shape == (len(VOCABULARY), width)


@pytest.mark.parametrize("model_type", ALL)
def test_masks_for_the_encoder(model_type):
    """No mask, and the one that is ready for sdpa, are what the encoder would make of the given one."""
    batch, model = make_batch(4), built(model_type)
    expected = model(**text_of(batch)).logits
    text = batch["attention_mask"].bool()
    assert not text.all()
    shapes = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs.get("attention_mask")), with_kwargs=True
    )
    logits = model(**text_of(batch), all_text=False).logits
    torch.testing.assert_close(logits[text], expected[text], rtol=1e-10, atol=1e-10)
    sdpa = FAMILIES[model_type].ready_mask
    assert shapes[-1].dim() == (4 if sdpa else 2)
    assert not sdpa or model.config._attn_implementation == "sdpa"
    whole = {name: x[:, : int(text.sum(1).min())] for name, x in text_of(batch).items()}
    expected = model(**whole).logits
    torch.testing.assert_close(model(**whole, all_text=True).logits, expected, rtol=1e-10, atol=1e-10)
    assert (shapes[-1] is None) == FAMILIES[model_type].ones_are_none


@pytest.mark.parametrize("model_type", ALL)
def test_folders(model_type, tmp_path, poisoned):
    batch, model = make_batch(4), built(model_type)
    inputs, state = text_of(batch), model.state_dict()
    with torch.no_grad():
        logits, hidden = model(**inputs).logits, model.base_model(**inputs)[0]
        model.save_pretrained(tmp_path)
        native = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
        assert type(native) is model.native_class
        assert_same(native(**inputs).logits, logits, model_type)
        for name, value in native.state_dict().items():
            assert torch.equal(value, state[name]), name
        assert_same(AutoModel.from_pretrained(tmp_path).eval()(**inputs)[0], hidden, model_type)
        if model_type in MAIN and type(model.config) in MODEL_FOR_QUESTION_ANSWERING_MAPPING:
            answering = AutoModelForQuestionAnswering.from_pretrained(tmp_path).eval()
            assert_same(answering.base_model(**inputs)[0], hidden, model_type)
        again = SpanBertForPreTraining.from_pretrained(tmp_path)
        assert type(again) is type(model) and again.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())

        native.save_pretrained(tmp_path / "native")
        fresh = SpanBertForPreTraining.from_pretrained(tmp_path / "native", trust_remote_code=False)
        assert_same(fresh(**inputs).logits, logits, model_type)
        for name, p in fresh.sbo.named_parameters():
            if p.dim() == 2:
                assert p.mean().abs() < 0.2 * p.std() and 0.01 < p.std() < 0.06, name
            else:
                assert (p == (1 if name in ("norm1.weight", "norm2.weight") else 0)).all(), name


@pytest.mark.parametrize("model_type", MAIN)
def test_resized_tied_and_copied(model_type, tmp_path):
    batch, model = make_batch(4), built(model_type)
    tied = getattr(model.config, "tie_word_embeddings", True)
    expected = model(**text_of(batch), **{name: batch[name] for name in ("labels", *INDICES)}).loss.detach()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is type(model)
        assert (twin.get_output_embeddings().weight is twin.get_input_embeddings().weight) == tied
        loss = twin(**text_of(batch), **{name: batch[name] for name in ("labels", *INDICES)}).loss
        assert_same(loss, expected, model_type)

    old, size = model.sbo.bias.detach().clone(), len(VOCABULARY) + 5
    model.resize_token_embeddings(size, mean_resizing=False)
    decoder = model.get_output_embeddings()
    assert model.sbo.bias.shape == (size,) and torch.equal(model.sbo.bias[:-5], old)
    assert (decoder.weight is model.get_input_embeddings().weight) == tied
    assert len(decoder.weight) == size and (decoder.bias is None or decoder.bias.shape == (size,))
    batch["labels"][0, 1] = batch["input_ids"][0, 1] = size - 1
    output = model(**text_of(batch), **{name: batch[name] for name in ("labels", *INDICES)})
    output.loss.backward()
    assert torch.isfinite(output.loss)
    model.save_pretrained(tmp_path)
    again = SpanBertForPreTraining.from_pretrained(tmp_path)
    assert_same(again(**text_of(batch)).logits, model(**text_of(batch)).logits, model_type)


# What the native class does not do either, of big_bird in newer transformers alone.
NO_AUTOCAST = {"deberta", "big_bird"}  # their attention has float32 constants that bfloat16 does not take


@pytest.mark.parametrize("model_type", MAIN)
def test_autocast(model_type):
    batch, model = make_batch(4), built(model_type).float()
    if model_type in NO_AUTOCAST:
        try:
            with torch.autocast("cpu", torch.bfloat16):
                native_twin(model)(**text_of(batch))
        except RuntimeError:
            return
    inputs = text_of(batch) | {name: batch[name] for name in ("labels", *INDICES)}
    expected = model(**inputs).loss.detach()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**inputs)
    output.loss.backward()
    torch.testing.assert_close(output.loss.detach(), expected, rtol=0.02, atol=0)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("model_type", present("roberta", "eurobert"))
def test_compiled(model_type, fresh_dynamo):
    """One graph, of a head with a module around it, and of a decoder alone that has no bias, which no test of heads
    compiles backward."""
    batch, model = make_batch(4), built(model_type, num_hidden_layers=1)
    inputs = text_of(batch) | {name: batch[name] for name in ("labels", *INDICES)}
    backend = "aot_eager" if model_type == "eurobert" else "eager"
    same_step(model, torch.compile(model, backend=backend, fullgraph=True), inputs, of_gradients=1e-9)


@pytest.mark.parametrize(
    "model_type",
    present("bert", "distilbert", "electra", "albert", "modernbert", "nomic_bert", "xlm"),
)
def test_compiled_heads(model_type, fresh_dynamo):
    """All that is ours in a step, in one graph, over hidden states that the encoder made."""
    batch, model = make_batch(4), built(model_type)
    x = model.base_model(**text_of(batch))[0].detach().requires_grad_()
    indices = [batch[name] for name in INDICES]

    def loss_of(x: Tensor) -> Tensor:
        return head_loss(find_heads(model, True), x, batch["labels"], *indices, sbo_weight=1.0).loss

    expected = loss_of(x)
    (expected_grad,) = torch.autograd.grad(expected, x)
    loss = torch.compile(loss_of, backend="eager", fullgraph=True)(x)
    (grad,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-6, atol=1e-9)
