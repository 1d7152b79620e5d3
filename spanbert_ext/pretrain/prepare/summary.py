# SPDX-License-Identifier: Apache-2.0
"""What a prepared corpus holds, for a person: a page of text and a picture of its lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

REPORT = "report.md"  # not .txt: a search for text must not find it
HISTOGRAM = "lengths.png"
_BLOCK_ROW = 512
_BLOCK = _BLOCK_ROW - 2  # tokens of a block beside its special ones


def _edges(bins: int) -> np.ndarray:
    """Where each bin of document lengths begins and the last one ends: see `document_bin`."""
    return 2 ** (np.arange(bins + 1) / 4)


def _share(count: int, total: int) -> str:
    return f"{count / total:.3%}" if total else "0%"


def _half(histogram: list[int], longest: np.ndarray) -> str:
    """What half of them have at most, to the end of a bin. longest: the greatest length of each bin, of which the last
    has none."""
    middle = int(np.searchsorted(np.cumsum(histogram), (sum(histogram) + 1) // 2))
    if middle == len(histogram) - 1:
        return f"half of them of more than {longest[middle - 1]:,}"
    return f"half of them of {longest[middle]:,} or fewer"


def report_text(
    counts: dict[str, int], shards: int, sentence_lengths: list[int], document_lengths: list[int]
) -> str:
    """A line a figure. The lengths are histograms: see `Shard`."""
    documents, sentences, tokens = counts["documents"], counts["sentences"], counts["tokens"]
    longest_documents = np.ceil(_edges(len(document_lengths))[1:]).astype(int) - 1  # of each bin
    longest_sentences = np.arange(len(sentence_lengths))
    short = int(np.array(document_lengths)[longest_documents < _BLOCK_ROW / 2].sum())
    rows = {
        "documents": f"{documents:,}, of {tokens / documents:,.0f} tokens on average,"
        f" {_half(document_lengths, longest_documents)}",
        "sentences": f"{sentences:,}, of {tokens / sentences:.1f} tokens on average,"
        f" {_half(sentence_lengths, longest_sentences)}",
        "tokens": f"{tokens:,}, one for {counts['text_bytes'] / tokens:.2f} bytes of text",
        "unknown": f"{counts['unknown']:,} tokens, {_share(counts['unknown'], tokens)}",
        "text": f"{counts['text_bytes'] / 1e6:,.1f} MB",
        "shards": f"{shards:,}",
    }
    if counts["candidates"]:
        rows["phrases"] = (
            f"{counts['candidates']:,}, {1000 * counts['candidates'] / tokens:.1f} in 1,000 tokens"
        )
    lines = [f"{name:<12}{value}" for name, value in rows.items()]
    if short > documents / 2:
        lines.append(
            f"{_share(short, documents)} of the documents are shorter than half a block of {_BLOCK_ROW} tokens, and a"
            " block never holds two: if a blank line does not end a document here, name the line that does with"
            " --document-separator."
        )
    if counts["unknown"] > tokens / 100:
        lines.append("More than 1 % of the tokens are unknown: this tokenizer is not made for this text.")
    return "\n".join(lines) + "\n"


def draw_lengths(path: Path, sentence_lengths: list[int], document_lengths: list[int]) -> None:
    """A PNG of both histograms."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.stairs(sentence_lengths, np.arange(len(sentence_lengths) + 1) - 0.5, fill=True, color="#3b6ea5")
    left.set(
        xlabel=f"tokens of a sentence (the last: {len(sentence_lengths) - 1} and more)",
        ylabel="sentences",
    )
    counts = np.array(document_lengths)
    last = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 1
    right.stairs(counts[:last], _edges(last), fill=True, color="#3b6ea5")
    right.set_xscale("log", base=2)
    right.axvline(_BLOCK, color="#b04a3a", linewidth=1)
    right.set(xlabel=f"tokens of a document (line: {_BLOCK}, a block of {_BLOCK_ROW})", ylabel="documents")
    for axes in (left, right):
        axes.yaxis.get_major_formatter().set_useMathText(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, metadata={"Software": None})  # no version: the same picture each time
