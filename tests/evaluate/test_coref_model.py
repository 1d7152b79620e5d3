# SPDX-License-Identifier: Apache-2.0
"""The start-to-end form against loops over spans and pairs, and its decoding."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

import torch
from torch import Tensor, nn

from spanbert_ext.evaluate.tasks.coref.clusters import clusters_of
from spanbert_ext.evaluate.tasks.coref.model import (
    AntecedentScores,
    MentionScores,
    StartToEndCoreference,
    antecedent_logits,
    marginal_loss,
)
from spanbert_ext.evaluate.tasks.coref.options import CorefOptions


def test_a_loss_worked_by_hand() -> None:
    """Four spans: A, B, A, and one that is no mention."""
    pairs = torch.zeros(4, 4)
    pairs[1, 0], pairs[2, 0], pairs[2, 1], pairs[3] = math.log(3.0), math.log(2.0), 0.0, 0.0
    logits = antecedent_logits(torch.zeros(4), pairs)
    assert logits[:, 0].tolist() == [0.0] * 4 and torch.isinf(logits[0, 1:]).all()
    # first: certain; B: none has 1 of 1 + 3; second A: 2 of 1 + 2 + 1; the last: none has 1 of 4
    expected = -(math.log(1) + math.log(1 / 4) + math.log(2 / 4) + math.log(1 / 4)) / 4
    assert float(marginal_loss(logits, torch.tensor([1, 2, 1, 0]))) == pytest.approx(expected, rel=1e-6)


def plain_loss(mentions: Tensor, pairs: Tensor, clusters: list[int]) -> float:
    total = 0.0
    for i, cluster in enumerate(clusters):
        scores = [0.0] + [float(mentions[i] + mentions[j] + pairs[i, j]) for j in range(i)]
        right = [1 + j for j in range(i) if cluster and clusters[j] == cluster] or [0]
        every = sum(map(math.exp, scores))
        total -= math.log(sum(math.exp(scores[k]) for k in right) / every)
    return total / len(clusters)


def test_the_loss_is_that_of_a_plain_loop_and_its_gradient_is_right() -> None:
    torch.manual_seed(0)
    clusters = [1, 0, 2, 1, 1, 2, 0, 3, 1]
    mentions, pairs = torch.randn(9, dtype=torch.double), torch.randn(9, 9, dtype=torch.double)
    found = marginal_loss(antecedent_logits(mentions, pairs), torch.tensor(clusters))
    assert float(found) == pytest.approx(plain_loss(mentions, pairs, clusters), rel=1e-12)
    inputs = (mentions.requires_grad_(), pairs.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda m, p: marginal_loss(antecedent_logits(m, p), torch.tensor(clusters)), inputs
    )


def test_mention_scores_are_those_of_every_span_by_itself() -> None:
    torch.manual_seed(0)
    scores = MentionScores(6, 5, 0.0).double()
    first, last = torch.randn(2, 7, 6, dtype=torch.double)
    segment = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    found = scores(first, last, segment, 3)
    assert found.shape == (7, 3)
    start, end = scores.start(first), scores.end(last)
    for i in range(7):
        for width in range(3):
            j = i + width
            if j >= 7 or segment[i] != segment[j]:
                assert found[i, width] == -torch.inf
                continue
            both = (scores.of_both.weight @ start[i] + scores.of_both.bias) @ end[j] / 5**0.5
            expected = scores.of_start(start[i]) + scores.of_end(end[j]) + both
            torch.testing.assert_close(found[i, width], expected[0])
    assert scores(first[:2], last[:2], segment[:2], 10).shape == (2, 2)


def test_antecedent_scores_are_four_bilinear_forms() -> None:
    torch.manual_seed(0)
    scores = AntecedentScores(6, 5, 0.0).double()
    first, last = torch.randn(2, 4, 6, dtype=torch.double)
    found = scores(first, last)
    start, end = scores.start(first), scores.end(last)
    for i in range(4):
        for j in range(4):
            expected = (
                scores.starts(start[i]) @ start[j]
                + scores.end_start(end[i]) @ start[j]
                + scores.start_end(start[i]) @ end[j]
                + scores.ends(end[i]) @ end[j]
            )
            torch.testing.assert_close(found[i, j], expected / 5**0.5)


class Table(nn.Module):
    """An encoder whose states do not depend on their row."""

    config = SimpleNamespace(hidden_size=6)

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 6)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.table(input_ids))


def documents() -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Two documents of two segments and one, apart and as one batch; every word is a token."""
    ids = torch.arange(3, 18).reshape(3, 5)
    seg = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2])
    document = (seg == 2).long()
    at = torch.arange(15)
    words = torch.stack([document, seg, at, at], dim=1)
    gold = torch.tensor([[0, 0, 1, 1], [0, 5, 5, 1], [0, 7, 8, 2], [1, 10, 11, 1], [1, 13, 13, 1]])

    def batch(segments: slice, own_words: slice, own_gold: slice, shift: list[int]) -> dict[str, Tensor]:
        own = ids[segments]
        return {
            "input_ids": own,
            "attention_mask": torch.ones_like(own),
            "words": words[own_words] - torch.tensor([shift[0], shift[1], *[shift[2]] * 2]),
            "gold": gold[own_gold] - torch.tensor([shift[0], shift[2], shift[2], 0]),
        }

    all_of = slice(None)
    return (
        batch(all_of, all_of, all_of, [0, 0, 0]),
        batch(slice(0, 2), slice(0, 10), slice(0, 3), [0, 0, 0]),
        batch(slice(2, 3), slice(10, 15), slice(3, 5), [1, 2, 10]),
    )


def model(**options: float) -> StartToEndCoreference:
    torch.manual_seed(0)
    return StartToEndCoreference(Table(), CorefOptions(max_width=3, head_size=8, **options), seed=1).eval()


def test_documents_of_a_batch_do_not_see_each_other() -> None:
    both, one, other = documents()
    coref = model()
    together, apart = coref(**both), [coref(**x) for x in (one, other)]
    torch.testing.assert_close(together["loss"], torch.stack([x["loss"] for x in apart]).mean())
    for name in ("spans", "antecedents"):
        for found, alone in zip(together[name], apart, strict=True):
            assert torch.equal(found, alone[name][0])


def test_the_best_spans_are_kept_in_the_order_of_the_text() -> None:
    _, one, _ = documents()
    found = model(kept_spans=0.6)(**one)
    spans = found["spans"][0].tolist()
    assert len(spans) == 6 and spans == sorted(spans)
    coref = model(kept_spans=100.0)
    every = coref(**one)["spans"][0].tolist()
    assert every == [[i, j] for i in range(10) for j in range(i, min(i + 3, 5 if i < 5 else 10))]
    states = coref.encoder.table(one["input_ids"]).flatten(0, 1)
    scores = coref.mentions(states, states, one["words"][:, 1], 3)
    of_span = scores.detach().numpy()
    worst_kept = min(of_span[i, j - i] for i, j in spans)
    assert sum(of_span[i, j - i] > worst_kept for i, j in every) == 5


def test_in_training_gold_mentions_are_among_the_spans_kept() -> None:
    _, one, _ = documents()
    gold = [[0, 1], [5, 5], [7, 8]]
    coref = model(kept_spans=0.3, head_dropout=0.0)
    assert not all(mention in coref(**one)["spans"][0].tolist() for mention in gold)
    assert coref.train()(**one)["spans"][0].tolist() == gold


def test_states_that_are_no_numbers_give_no_links_and_no_error() -> None:
    both, _, _ = documents()
    coref = model()
    with torch.no_grad():
        coref.encoder.table.weight.fill_(float("nan"))
    found = coref(**both)
    assert found["loss"].isnan() and all((x == -1).all() for x in found["antecedents"])


def test_a_seed_draws_the_same_head_whatever_was_drawn_before() -> None:
    a = StartToEndCoreference(Table(), CorefOptions(), seed=3)
    torch.rand(7)
    b, c = (StartToEndCoreference(Table(), CorefOptions(), seed=seed) for seed in (3, 4))
    same = [torch.equal(x, y) for x, y in zip(a.mentions.parameters(), b.mentions.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(a.mentions.of_both.weight, c.mentions.of_both.weight)


def test_links_make_clusters() -> None:
    spans = [(0, 1), (3, 3), (4, 5), (6, 6), (7, 9)]
    assert clusters_of(spans, [-1, -1, 0, 1, 2]) == [[(0, 1), (4, 5), (7, 9)], [(3, 3), (6, 6)]]
    assert clusters_of(spans, [-1] * 5) == []
