# SPDX-License-Identifier: Apache-2.0
"""What filling leaves as it was, models that lack a head, and wrong arguments."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
from families_samples import family_config
from fill_samples import (
    TEXT,
    close,
    plain_heads,
    probabilities,
    trained,
    trained_model,
)
from tiny_models import (  # noqa: F401
    NOUNS,
    VERBS,
    VOCABULARY,
    make_batch,
    make_model,
    one_thread,
    tiny_config,
    tiny_tokenizer,
)
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    BertConfig,
)

from spanbert_ext import SpanBertForPreTraining, SpanMasker, fill_spans
from spanbert_ext.fill.filling import Filler

SIZE = len(VOCABULARY)


# --- The model is left as it was ------------------------------------------------------------------------------


def test_modes_gradients_and_results_in_training(tokenizer):
    torch.manual_seed(0)
    model = trained(SpanBertForPreTraining(tiny_config(hidden_dropout_prob=0.5)))
    expected = fill_spans(model, tokenizer, TEXT)
    model.train()
    model.bert.encoder.eval()
    modes = [module.training for module in model.modules()]
    close(fill_spans(model, tokenizer, TEXT), expected)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="no masked span"):
        fill_spans(model, tokenizer, "a cat")
    model.get_output_embeddings().bias.data[7] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        fill_spans(model, tokenizer, TEXT)
    assert [module.training for module in model.modules()] == modes


def test_the_masker_of_a_model_takes_no_part(tokenizer):
    model = trained_model()
    expected = fill_spans(model, tokenizer, TEXT)
    model.set_masker(SpanMasker.from_tokenizer(tokenizer, ratio=0.9))
    close(fill_spans(model, tokenizer, TEXT), expected)


def test_a_model_in_bfloat16_has_probabilities_in_float32(model, tokenizer):
    exact = fill_spans(model.float(), tokenizer, TEXT, SIZE, allowed="all").spans[0]
    rough = fill_spans(trained_model().to(torch.bfloat16), tokenizer, TEXT, SIZE, allowed="all").spans[0]
    for head in exact.heads:
        a, b = (probabilities(x.heads[head].guesses[0]) for x in (exact, rough))
        assert sum(b.values()) == pytest.approx(1, abs=1e-5)
        assert a != b and b == pytest.approx(a, abs=0.05)


def test_models_with_a_next_sentence_head(tokenizer):
    torch.manual_seed(0)
    model = trained(SpanBertForPreTraining(tiny_config(), nsp=True, position_dim=24))
    filler = Filler(model, tokenizer, SIZE, allowed="all")
    row = filler.read(TEXT)
    span = filler.fill([row])[0].spans[0]
    mlm, sbo = plain_heads(model, row, span)
    for head, expected in {"mlm": mlm, "sbo": sbo}.items():
        found = probabilities(span.heads[head].guesses[1])
        assert [found[id] for id in range(SIZE)] == pytest.approx(expected[1].tolist(), rel=2e-4)


def test_whatever_was_done_to_the_heads_modules(model, tokenizer):
    """Hooks, wrappers and adapters count, as in the model's own forward."""
    from peft import LoraConfig, get_peft_model

    text = "the old [MASK] seeed a big child ."
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    hooked = trained_model()
    hooked.cls.predictions.transform.register_forward_hook(lambda module, inputs, output: output.flip(1) * 2)
    with torch.no_grad():
        expected = hooked(input_ids=ids, return_loss=False).logits[0, 3].softmax(-1)
    found = probabilities(
        fill_spans(hooked, tokenizer, text, SIZE, allowed="all").spans[0].heads["mlm"].guesses[0]
    )
    assert [found[id] for id in range(SIZE)] == pytest.approx(expected.tolist(), rel=1e-4)

    expected = fill_spans(model, tokenizer, text)
    close(fill_spans(torch.nn.DataParallel(model), tokenizer, text), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is called in place of being read
        adapted = get_peft_model(trained_model(), LoraConfig(r=2, target_modules=["query", "decoder"]))
        close(fill_spans(adapted, tokenizer, text), expected)


# --- Models without a span-boundary head ----------------------------------------------------------------------


def test_an_untrained_sbo_is_never_used_silently(tokenizer):
    model = make_model()
    with pytest.warns(UserWarning, match="untrained.*only the MLM head fills in"):
        assert fill_spans(model, tokenizer, TEXT).heads == ("mlm",)
    for head in ("sbo", "both"):
        with pytest.raises(
            ValueError, match=f"heads has '{head}', but the span-boundary head .* is untrained"
        ):
            fill_spans(model, tokenizer, TEXT, heads=("mlm", head))
    assert fill_spans(model, tokenizer, TEXT, heads="mlm").heads == ("mlm",)
    before = fill_spans(trained(model), tokenizer, TEXT)
    assert before.heads == ("mlm", "sbo", "both")


def test_one_step_of_training_makes_it_a_trained_one(tokenizer):
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)
    model.sbo.requires_grad_(False)  # as a run without the objective has it
    model(**{**make_batch(), "left_boundary": None, "right_boundary": None}).loss.backward()
    optimizer.step()
    assert model.sbo.untrained
    model.sbo.requires_grad_(True)
    model(**make_batch()).loss.backward()
    optimizer.step()
    assert not model.sbo.untrained


def test_a_plain_masked_language_model_has_the_mlm_head_alone(tokenizer):
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(family_config("distilbert")).eval()  # takes no token types
    filled = fill_spans(model, tokenizer, TEXT)
    assert filled.heads == ("mlm",) and filled.spans[0].agreement == (None, None)
    with pytest.raises(
        ValueError, match="heads has 'both', but a DistilBertForMaskedLM has no span-boundary head"
    ):
        fill_spans(model, tokenizer, TEXT, heads=("mlm", "both"))


# --- Wrong arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"top_k": 0}, ValueError, "top_k is 0; expected 1 or more"),
        ({"top_k": 2.5}, TypeError, "top_k is 2.5"),
        ({"top_k": True}, TypeError, "top_k is True"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"heads": ()}, ValueError, "heads has empty; expected one or more of mlm, sbo, both"),
        ({"heads": ("mlm", "nsp")}, ValueError, "heads has 'nsp'"),
        ({"heads": 3}, TypeError, "heads is 3"),
        ({"allowed": ()}, ValueError, "allowed is empty"),
        ({"allowed": "words"}, TypeError, "allowed is 'words' .*expected 'all', None, or a list"),
        ({"allowed": ["giraffe"]}, ValueError, "allowed has 'giraffe'"),
        ({"allowed": [SIZE]}, ValueError, f"allowed has {SIZE}; .* an id below {SIZE}"),
        ({"allowed": [-1]}, ValueError, "allowed has -1"),
        ({"allowed": [1.0]}, ValueError, "allowed has 1.0"),
        ({"text": "a cat"}, ValueError, "^the text has no masked span"),
        ({"text": ["a [MASK]", "a {x}"]}, ValueError, r"text\[1\]: '\{x\}' at character 3"),
        ({"text": ["a [MASK]", 3]}, TypeError, r"text\[1\]: text is 3"),
        ({"text": None}, TypeError, "text is None"),
        ({"text": "{60} {4}"}, ValueError, "66 tokens; the model reads at most 64"),
        ({"tokenizer": None}, TypeError, "tokenizer is None"),
        ({"model": None}, TypeError, "model is None"),
        ({"model": torch.nn.Linear(2, 2)}, TypeError, "model is a Linear"),
    ],
)
def test_wrong_arguments_are_named(model, tokenizer, given, error, message):
    given = {"model": model, "tokenizer": tokenizer, "text": TEXT} | given
    with pytest.raises(error, match=message):
        fill_spans(**given)


def test_a_tokenizer_of_another_model_is_refused(model):
    larger = tiny_tokenizer()
    larger.add_tokens(["zebra"])
    with pytest.raises(ValueError, match=f"id {SIZE}; the model has a vocabulary of {SIZE}"):
        fill_spans(model, larger, "the zebra [MASK] .")
    with pytest.raises(ValueError, match="mask token at id"):
        small = trained(SpanBertForPreTraining(BertConfig(**(tiny_config().to_dict() | {"vocab_size": 4}))))
        fill_spans(small, larger, TEXT)
    without = tiny_tokenizer()
    without.mask_token = None
    with pytest.raises(ValueError, match="no mask token"):
        fill_spans(model, without, TEXT)


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForQuestionAnswering])
def test_what_is_no_masked_language_model_is_refused(auto, tokenizer):
    with pytest.raises(ValueError, match="is no masked language model"):
        fill_spans(auto.from_config(tiny_config()), tokenizer, TEXT)


def test_results_are_values(model, tokenizer):
    filled = fill_spans(model, tokenizer, TEXT)
    with pytest.raises(dataclasses.FrozenInstanceError):
        filled.text = "another"
    assert len(filled.spans[0]) == 2 and filled == fill_spans(model, tokenizer, TEXT)
