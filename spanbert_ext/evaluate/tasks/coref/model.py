# SPDX-License-Identifier: Apache-2.0
"""Coreference in the start-to-end form (Kirstain et al., ACL 2021): which spans are mentions, and which of them
corefer, is scored from the encoder's states of their first and last tokens alone.

Two things are not the paper's: bilinear forms are divided by the root of their width, as in attention, so that scores
begin small at any width; and in training gold mentions are always among the spans that are kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spanbert_ext.evaluate.tasks.coref.options import CorefOptions

_MOST_SPANS = 3900  # kept of a document: the matrix of all pairs of them is made


class Projection(nn.Sequential):
    """A representation of tokens in one role."""

    def __init__(self, hidden: int, size: int, dropout: float) -> None:
        super().__init__(nn.Linear(hidden, size), nn.GELU(), nn.LayerNorm(size), nn.Dropout(dropout))


class MentionScores(nn.Module):
    """How likely a span is a mention."""

    def __init__(self, hidden: int, size: int, dropout: float) -> None:
        super().__init__()
        self.start, self.end = (Projection(hidden, size, dropout) for _ in range(2))
        self.of_start, self.of_end = (nn.Linear(size, 1) for _ in range(2))
        self.of_both = nn.Linear(size, size)
        self.scale = size**-0.5

    def forward(self, first: Tensor, last: Tensor, segment: Tensor, widths: int) -> Tensor:
        """Scores [N, widths] of spans of 1 ... `widths` words by their first word; -inf of those that leave their
        segment. first, last: states [N, H] of the first and last tokens of words; segment: [N], ascending."""
        start, end = self.start(first), self.end(last)
        asks = self.of_both(start) * self.scale
        of_start, of_end = self.of_start(start)[:, 0], self.of_end(end)[:, 0]
        count = len(first)
        columns = []
        for width in range(min(widths, count)):
            stop = count - width
            scores = of_start[:stop] + of_end[width:] + (asks[:stop] * end[width:]).sum(-1)
            scores = scores.masked_fill(segment[:stop] != segment[width:], -torch.inf)
            columns.append(nn.functional.pad(scores, (0, width), value=-torch.inf))
        return torch.stack(columns, dim=1)


class AntecedentScores(nn.Module):
    """How likely two mentions corefer: four bilinear forms of their starts and ends."""

    def __init__(self, hidden: int, size: int, dropout: float) -> None:
        super().__init__()
        self.start, self.end = (Projection(hidden, size, dropout) for _ in range(2))
        self.starts, self.start_end, self.end_start, self.ends = (nn.Linear(size, size) for _ in range(4))
        self.scale = size**-0.5

    def forward(self, first: Tensor, last: Tensor) -> Tensor:
        """Scores [K, K] of mention and antecedent. first, last: states [K, H] of the mentions' outer tokens."""
        start, end = self.start(first), self.end(last)
        of_start = self.starts(start) + self.end_start(end)
        of_end = self.start_end(start) + self.ends(end)
        return (of_start @ start.T + of_end @ end.T) * self.scale


def antecedent_logits(mentions: Tensor, pairs: Tensor) -> Tensor:
    """[K, 1 + K]: of no antecedent, 0, and of every mention as the antecedent; -inf of those that are not earlier.

    mentions: scores [K] in the order of the text. pairs: [K, K]."""
    both = mentions[:, None] + mentions[None, :] + pairs
    earlier = torch.ones_like(both, dtype=torch.bool).tril(-1)
    return nn.functional.pad(both.masked_fill(~earlier, -torch.inf), (1, 0))


def marginal_loss(logits: Tensor, clusters: Tensor) -> Tensor:
    """Mean over the mentions of -log of the probability that their antecedents of the same gold cluster have together;
    of no antecedent where none is earlier. logits: as above. clusters: [K], 0 of spans that are no gold mentions."""
    right = (clusters[:, None] == clusters[None, :]) & (clusters[:, None] > 0)
    right = right.tril(-1)
    right = torch.cat([~right.any(dim=1, keepdim=True), right], dim=1)
    gold = logits.masked_fill(~right, -torch.inf).logsumexp(1)
    return (logits.logsumexp(1) - gold).mean()


class StartToEndCoreference(nn.Module):
    """An encoder with both scores."""

    def __init__(self, encoder: nn.Module, options: CorefOptions, seed: int) -> None:
        """seed: of the weights that are not the encoder's."""
        super().__init__()
        hidden = encoder.config.hidden_size
        size = options.head_size or 3 * hidden
        self.encoder = encoder
        torch.manual_seed(seed)
        self.mentions = MentionScores(hidden, size, options.head_dropout)
        self.antecedents = AntecedentScores(hidden, size, options.head_dropout)
        self.kept_spans, self.max_width = options.kept_spans, options.max_width

    def forward(self, words: Tensor, gold: Tensor, **segments: Tensor) -> dict[str, Any]:
        """segments: what the encoder reads, [S, L]. words, gold: see `collate_documents`.

        Returns `loss`, the mean of the documents', and of each document `spans` [K, 2] (first and last word of it) and
        `antecedents` [K], places among the spans, -1 of none."""
        states = self.encoder(**segments).last_hidden_state.float().flatten(0, 1)
        counts = words[:, 0].bincount().tolist()
        losses, spans, antecedents = [], [], []
        begin = 0
        with torch.autocast(states.device.type, enabled=False):
            for number, count in enumerate(counts):
                own = words[begin : begin + count]
                mentions = gold[gold[:, 0] == number, 1:] - torch.tensor(
                    [begin, begin, 0], device=gold.device
                )
                loss, kept, logits = self._document(states[own[:, 2]], states[own[:, 3]], own[:, 1], mentions)
                losses.append(loss)
                spans.append(kept)
                antecedents.append(logits.detach().nan_to_num(-torch.inf, neginf=-torch.inf).argmax(1) - 1)
                begin += count
        return {"loss": torch.stack(losses).mean(), "spans": spans, "antecedents": antecedents}

    def _document(
        self, first: Tensor, last: Tensor, segment: Tensor, gold: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """gold: [M, 3]. Returns the loss, the spans kept [K, 2] in their order, and [K, 1 + K] logits."""
        scores = self.mentions(first, last, segment, self.max_width)
        count, widths = scores.shape
        clusters = gold.new_zeros(count, widths)
        narrow = gold[gold[:, 1] - gold[:, 0] < widths]
        clusters[narrow[:, 0], narrow[:, 1] - narrow[:, 0]] = narrow[:, 2]
        flat, clusters = scores.flatten(), clusters.flatten()
        spans = flat != -torch.inf
        lowest = torch.finfo(flat.dtype).min  # a score that is no number is that of a span too
        ranked = flat.detach().nan_to_num(lowest, neginf=-torch.inf)
        if self.training:  # what is not kept is never told that it is a mention
            ranked = ranked.masked_fill(spans & (clusters > 0), torch.inf)
        keep = min(max(1, int(self.kept_spans * count)), int(spans.sum()), _MOST_SPANS)
        top = ranked.topk(keep).indices.sort().values
        start, end = top // widths, top // widths + top % widths
        logits = antecedent_logits(flat[top], self.antecedents(first[start], last[end]))
        return marginal_loss(logits, clusters[top]), torch.stack([start, end], 1), logits
