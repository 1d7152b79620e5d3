# SPDX-License-Identifier: Apache-2.0
"""What `fill_spans` returns: each head's probabilities against other ways to compute them, and what it leaves alone."""

from __future__ import annotations

import heapq
import itertools

import pytest
import torch
from fill_samples import (
    TEXT,
    byte_level_tokenizer,
    close,
    family_model,
    plain_heads,
    probabilities,
    sentencepiece_tokenizer,
    trained,
    trained_model,
)
from scipy.spatial.distance import jensenshannon
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
    AutoModelForMaskedLM,
    pipeline,
)

from spanbert_ext import SpanBertForPreTraining, fill_spans
from spanbert_ext.fill.filling import Filler

SIZE = len(VOCABULARY)


# --- Probabilities --------------------------------------------------------------------------------------------


FAMILIES = ["bert", "roberta", "electra", "albert", "rembert", "modernbert", "deberta-v2", "xlm"]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_each_head_is_a_plain_forward_in_float64(model_type, tokenizer):
    """ELECTRA, ALBERT and RemBERT decode another width than the hidden one."""
    model = family_model(model_type)
    filler = Filler(model, tokenizer, SIZE, allowed="all")
    row = filler.read(TEXT)
    first, second = filler.fill([row])[0].spans
    for span in (first, second):
        mlm, sbo = plain_heads(model, row, span)
        both = ((mlm.log() + sbo.log()) / 2).softmax(-1)
        for head, expected in {"mlm": mlm, "sbo": sbo, "both": both}.items():
            for guesses, of_token in zip(span.heads[head].guesses, expected, strict=True):
                found = torch.tensor([probabilities(guesses)[id] for id in range(SIZE)], dtype=torch.float64)
                torch.testing.assert_close(found, of_token, rtol=2e-4, atol=1e-7)
                assert [x.probability for x in guesses] == sorted(found.tolist(), reverse=True)
        for agreement, p, q in zip(span.agreement, mlm, sbo, strict=True):
            assert agreement == pytest.approx(1 - jensenshannon(p, q, base=2) ** 2, abs=1e-5)
            assert agreement < 0.999


def test_the_mlm_head_is_the_pipeline_of_transformers(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    native = AutoModelForMaskedLM.from_pretrained(tmp_path)
    ask = pipeline("fill-mask", model=native, tokenizer=tokenizer, top_k=SIZE, device="cpu")
    text = "the old [MASK] seeed a big child ."
    expected = {found["token"]: found["score"] for found in ask(text)}
    for asked in (model, native):
        (guesses,) = (
            fill_spans(asked, tokenizer, text, SIZE, ["mlm"], allowed="all").spans[0].heads["mlm"].guesses
        )
        assert probabilities(guesses) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("allowed", [list(range(5, 25)), None])
def test_fillings_are_the_best_of_all_there_are(model, tokenizer, allowed):
    """20^3 and 33^3 of them, by each head; the probability of one is the product of its tokens'."""
    spans = fill_spans(model, tokenizer, "the old {3} a big child .", 19, allowed=allowed).spans
    every = fill_spans(model, tokenizer, "the old {3} a big child .", SIZE, allowed=allowed).spans
    for head, found in spans[0].heads.items():
        of_tokens = [list(probabilities(guesses).items()) for guesses in every[0].heads[head].guesses]
        sums = [(a[1] * b[1] * c[1], (a[0], b[0], c[0])) for a, b, c in itertools.product(*of_tokens)]
        best = heapq.nlargest(19, sums)
        assert [filling.ids for filling in found.fillings] == [ids for _, ids in best]
        assert [filling.probability for filling in found.fillings] == pytest.approx(
            [p for p, _ in best], rel=1e-9
        )
        assert [len(guesses) for guesses in found.guesses] == [19, 19, 19]


def test_what_may_not_be_filled_in_keeps_its_share(model, tokenizer):
    text = "the old [MASK] seeed ."
    everything = fill_spans(model, tokenizer, text, 99, allowed="all").spans[0].heads
    words = fill_spans(model, tokenizer, text, 99).spans[0].heads
    chosen = (
        fill_spans(model, tokenizer, text, 99, allowed=["cat", VOCABULARY["dog"], "##ing", "cat"])
        .spans[0]
        .heads
    )
    for head, found in everything.items():
        every, of_words, of_chosen = (probabilities(x[head].guesses[0]) for x in (everything, words, chosen))
        assert len(every) == SIZE and sum(every.values()) == pytest.approx(1)
        assert of_words.keys() == set(range(5, SIZE))
        assert of_chosen.keys() == {VOCABULARY[token] for token in ("cat", "dog", "##ing")}
        assert of_words == {id: every[id] for id in of_words} and of_chosen == {
            id: every[id] for id in of_chosen
        }
        assert found.fillings[0].probability == max(every.values())


def test_unused_ids_and_those_without_a_token_are_not_filled_in():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["[unused0]", "[unused17]", "zebra"])
    torch.manual_seed(0)
    config = tiny_config()
    config.vocab_size = 64  # padded
    model = trained(SpanBertForPreTraining(config))
    guesses = fill_spans(model, tokenizer, "the [MASK] .", 99).spans[0].heads["mlm"].guesses[0]
    assert {guess.id for guess in guesses} == {*range(5, SIZE), SIZE + 2}
    assert {guess.token for guess in guesses} >= {"zebra", "##s"} and len(guesses) == SIZE - 4


@pytest.mark.parametrize("make", [tiny_tokenizer, byte_level_tokenizer, sentencepiece_tokenizer])
def test_an_id_without_a_token_is_no_word(make):
    tokenizer = make()
    torch.manual_seed(0)
    config = tiny_config()
    config.vocab_size = len(tokenizer) + 3  # padded
    model = trained(SpanBertForPreTraining(config))
    last = config.vocab_size - 1
    (span,) = fill_spans(model, tokenizer, "the [MASK] .", heads="mlm", allowed=[last]).spans
    (guess,) = span.heads["mlm"].guesses[0]
    assert (guess.token, guess.text) == (f"<{last}>", f"<{last}>")
    assert span.heads["mlm"].fillings[0].text == f"<{last}>"


# --- What a span is predicted from ----------------------------------------------------------------------------


def test_the_sbo_reads_the_boundaries_alone(model, tokenizer):
    """Other hidden states inside the span change what the MLM head says, and not what the SBO head does."""
    before = fill_spans(model, tokenizer, "the old {2} a big child .").spans[0]

    def disturb(positions):
        def hook(module, inputs, output):
            output.last_hidden_state[:, positions] += torch.linspace(-1, 1, 32)
            return output

        return model.bert.register_forward_hook(hook)

    changed = {}
    for name, positions in {"inside": [3, 4], "outside": [1, 6, 7], "left": [2], "right": [5]}.items():
        handle = disturb(positions)
        after = fill_spans(model, tokenizer, "the old {2} a big child .").spans[0]
        handle.remove()
        changed[name] = [
            after.heads[head].guesses[0][0].probability != before.heads[head].guesses[0][0].probability
            for head in ("mlm", "sbo")
        ]
    assert changed == {
        "inside": [True, False],
        "outside": [False, False],
        "left": [False, True],
        "right": [False, True],
    }


@pytest.mark.parametrize(
    ("text", "absent"),
    [("[MASK] cat .", "no boundary"), ("the cat {2}", "no boundary"), ("the {2} [SEP] cat .", "no boundary")],
)
def test_without_a_boundary_both_is_the_mlm_head(model, tokenizer, text, absent):
    (span,) = fill_spans(model, tokenizer, text).spans
    mlm, sbo, both = (span.heads[head] for head in ("mlm", "sbo", "both"))
    assert absent in span.sbo_absent and set(span.agreement) == {None}
    assert sbo.fillings == () and set(sbo.guesses) == {()}
    assert both == mlm and len(mlm.fillings) == 5


def test_past_the_last_position_slot_both_is_the_mlm_head(tokenizer):
    model = trained_model(position_slots=2)
    (span,) = fill_spans(model, tokenizer, "the {4} cat .").spans
    mlm, sbo, both = (span.heads[head] for head in ("mlm", "sbo", "both"))
    assert [len(guesses) for guesses in sbo.guesses] == [5, 5, 0, 0] and sbo.fillings == ()
    assert [a is None for a in span.agreement] == [False, False, True, True]
    assert both.guesses[2:] == mlm.guesses[2:] and both.guesses[:2] != mlm.guesses[:2]
    assert len(both.fillings) == 5 and "2 position slots" in span.sbo_absent
    assert fill_spans(model, tokenizer, "the {2} cat .").spans[0].sbo_absent == ""


def test_the_sbo_is_absent_only_where_it_was_asked(model, tokenizer):
    filled = fill_spans(model, tokenizer, "[MASK] cat .", heads="mlm")
    assert filled.spans[0].sbo_absent == "" and filled.heads == ("mlm",)
    filled = fill_spans(model, tokenizer, TEXT, heads=["both", "sbo"])
    assert filled.heads == ("sbo", "both") and filled.spans[0].agreement == (None, None)


# --- Texts ----------------------------------------------------------------------------------------------------


def test_a_text_does_not_depend_on_the_others(model, tokenizer):
    texts = [
        "the old {2} seeed a big child . {1} dog",
        "a [MASK] cat",
        "the [MASK] dog",
        "the cat {2}",
        "the old {2} seeed a big cat . {1} dog",
        "the old {12} seeed a big child .",
    ]
    alone = [fill_spans(model, tokenizer, text) for text in texts]
    for batch_size in (1, 2, 16):
        for found, expected in zip(
            fill_spans(model, tokenizer, texts, batch_size=batch_size), alone, strict=True
        ):
            close(found, expected)
    for found, expected in zip(fill_spans(model, tokenizer, texts[::-1]), alone[::-1], strict=True):
        close(found, expected)
    assert fill_spans(model, tokenizer, []) == []


def test_several_spans_are_those_of_one_pass(model, tokenizer):
    filled = fill_spans(model, tokenizer, "the {2} seeed the [MASK] [MASK] . {1} dog")
    assert [(span.start, span.stop) for span in filled.spans] == [(2, 4), (7, 9), (10, 11)]
    assert [(span.left, span.right) for span in filled.spans] == [("the", "see"), ("the", "."), (".", "dog")]


def test_the_text_comes_back_with_what_was_filled_in(tokenizer):
    torch.manual_seed(0)
    model = SpanBertForPreTraining(tiny_config())
    decoder = model.get_output_embeddings()
    wanted = {"##ed": 60.0, "watch": 50.0}
    for token, value in wanted.items():
        decoder.bias.data[VOCABULARY[token]] = value
    filled = fill_spans(model, tokenizer, "The  Old watch [MASK] a {2} cat {{x}}.", 1, "mlm")
    assert [span.heads["mlm"].fillings[0].text for span in filled.spans] == ["·ed", "·eded"]
    assert filled.filled("mlm") == "The  Old watched aeded cat {x}."
    assert filled.spans[0].heads["mlm"].guesses[0][0].token == "##ed"


def test_where_a_head_fills_nothing_the_length_stays(model, tokenizer):
    filled = fill_spans(model, tokenizer, "the cat {2}")
    assert filled.filled("sbo") == "the cat {2}" and "{" not in filled.filled("mlm")


@pytest.mark.parametrize("make", [byte_level_tokenizer, sentencepiece_tokenizer])
def test_fillings_read_well_for_other_tokenizers(make):
    tokenizer = make()
    torch.manual_seed(0)
    config = tiny_config()
    config.vocab_size = len(tokenizer)
    model = SpanBertForPreTraining(config)
    bias = model.get_output_embeddings().bias.data
    token = next(token for token in tokenizer.get_vocab() if token[0] in "Ġ▁" and token[1:].isalpha())
    word = token[1:]
    bias[tokenizer.convert_tokens_to_ids(token)] = 50.0
    filled = fill_spans(model, tokenizer, "the [MASK] birds", 1, "mlm")
    assert filled.spans[0].heads["mlm"].fillings[0].text == word
    assert filled.filled("mlm") == f"the {word} birds"
    rest = tokenizer.convert_tokens_to_ids("s")
    assert rest != tokenizer.unk_token_id
    bias[rest] = 90.0
    filled = fill_spans(model, tokenizer, "the old [MASK] birds", 1, "mlm")
    assert filled.spans[0].heads["mlm"].fillings[0].text == "·s"
    assert filled.filled("mlm") == "the olds birds"
