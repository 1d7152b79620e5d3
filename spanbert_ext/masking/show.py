# SPDX-License-Identifier: Apache-2.0
"""Words and masked spans of a batch as lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spanbert_ext.files.messages import escaped
from spanbert_ext.masking.checks import integer_tensor, kind_tensor, mask_tensor
from spanbert_ext.masking.word_kinds import (
    BYTE_FALLBACK,
    CONTINUES,
    SPECIAL,
    STARTS,
    byte_level_bytes,
    vocabulary_kinds,
)
from spanbert_ext.masking.word_marks import BYTE_LEVEL_SPACE, SENTENCEPIECE_SPACE, word_mark
from spanbert_ext.ops._common import flag, integer, shown

_SPAN, _REPLACEMENT, _PLAIN = "\x1b[7m", "\x1b[36m", "\x1b[0m"


class TokenTexts(NamedTuple):
    """A tokenizer's tokens as people read them."""

    tokenizer: Any
    kinds: np.ndarray | None  # uint8 [V] by id; None: the vocabulary does not show words
    mark: str

    def token(self, id: int) -> str:
        """As the vocabulary has it; `<47>` of an id that it has not, as of embeddings that are padded."""
        token = self.tokenizer.convert_ids_to_tokens(int(id))
        return f"<{id}>" if token is None else str(token)

    def data(self, id: int) -> bytes:
        """One token in UTF-8, without the mark of words; perhaps a part of a character."""
        token = self.token(id)
        if self.kinds is None or not 0 <= id < len(self.kinds) or self.kinds[id] == SPECIAL:
            return token.encode()
        if self.mark == BYTE_LEVEL_SPACE:
            data = byte_level_bytes(token)
            return token.encode() if data is None else data.strip(b" ")
        if BYTE_FALLBACK.fullmatch(token):
            return bytes([int(token[3:5], 16)])
        return (token.replace(self.mark, "") if self.mark else token).encode()

    def piece(self, id: int) -> str:
        return printable(self.data(id)) or SENTENCEPIECE_SPACE

    def text(self, ids: np.ndarray, kinds: np.ndarray | None) -> str:
        """Tokens `[n]` as words, with a space before what starts one."""
        data = b""
        for position, id in enumerate(ids):
            joined = kinds is not None and kinds[position] == CONTINUES
            data += (b"" if joined or position == 0 else b" ") + self.data(id)
        return printable(data) or SENTENCEPIECE_SPACE


def show_spans(
    batch: Any,
    tokenizer: Any,
    *,
    token_kinds: Any = None,
    rows: int | None = 8,
    color: bool = False,
) -> str:
    """What is masked in a batch, as text to print.

    A row is its original text with the masked spans in brackets, and one line for each span: where it is, how many
    words it has, its tokens (`·` joins those of one word), what stands in their place, and the two tokens outside it
    that the span-boundary head reads. Token ids without labels are shown as their words alone. Characters that would
    move the cursor or change the direction of writing are escaped.

    Args:
        batch: a `MaskedBatch`, a collator's batch (ours or transformers'), or token ids `[B, L]` or `[L]`.
        tokenizer: of the batch.
        token_kinds: `[B, L]`, where they are not the vocabulary's own: 0 continues a word, 1 starts one, 2 is special.
        rows: how many to show; None: all.
        color: masked text inverted and replacements in cyan, by a terminal's escape sequences.

    Raises:
        TypeError, ValueError: naming the argument, what it is and what was expected.
    """
    flag("color", color)
    if rows is not None and integer("rows", rows, "an integer or None") < 0:
        raise ValueError(f"rows is {rows}; expected 0 or more, or None")
    arrays = _arrays(batch)
    ids = arrays["input_ids"]  # [B, L]
    tokens = token_texts(tokenizer)
    kinds = None
    if token_kinds is not None:
        kinds = kind_tensor("token_kinds", token_kinds, "cpu").numpy()
        kinds = kinds[None] if kinds.ndim == 1 else kinds
        if kinds.shape != ids.shape:
            raise ValueError(f"token_kinds has shape {[*kinds.shape]}; expected [B, L] = {[*ids.shape]}")
    count = len(ids) if rows is None else min(rows, len(ids))
    blocks = []
    for row in range(count):
        arrays_of_row = {name: array[row] for name, array in arrays.items()}
        blocks.append(_show_row(row, arrays_of_row, None if kinds is None else kinds[row], tokens, color))
    if count < len(ids):
        more = len(ids) - count
        blocks.append(f"... {more} more row{'s' if more > 1 else ''}")
    return "\n".join(blocks)


def printable(text: bytes) -> str:
    """`escaped` of UTF-8, of which half a character may be there."""
    return escaped(text.decode(errors="backslashreplace"))


def _arrays(batch: Any) -> dict[str, np.ndarray]:
    """`input_ids` `[B, L]` and what else of a batch is shown, on the CPU."""
    if hasattr(batch, "as_dict"):
        batch = batch.as_dict()
    if not isinstance(batch, Mapping):
        ids = integer_tensor("batch", batch, "cpu", "a batch, or token ids")
        batch = {"input_ids": ids[None] if ids.dim() == 1 else ids}
    if "input_ids" not in batch:
        raise ValueError(f"the batch has no 'input_ids', but {sorted(batch)}")
    arrays = {}
    for name in (
        "input_ids",
        "labels",
        "attention_mask",
        "masked_positions",
        "left_boundary",
        "right_boundary",
    ):
        if batch.get(name) is not None:
            check = mask_tensor if name == "attention_mask" else integer_tensor
            arrays[name] = check(name, batch[name], "cpu").numpy()
    shape = arrays["input_ids"].shape
    for name, array in arrays.items():
        like_ids = name in ("labels", "attention_mask")
        if array.ndim != 2 or len(array) != shape[0] or (like_ids and array.shape != shape):
            expected = list(shape) if like_ids else "[B, K]" if name != "input_ids" else "[B, L]"
            raise ValueError(f"{name} has shape {list(array.shape)}; expected {expected}")
    return arrays


def token_texts(tokenizer: Any) -> TokenTexts:
    """Of a transformers tokenizer; one that does not show where words begin has its tokens written as they are.

    Raises:
        TypeError: it is none.
    """
    if not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise TypeError(f"tokenizer is {shown(tokenizer)}; expected a transformers tokenizer")
    try:
        kinds = vocabulary_kinds(tokenizer).kinds.numpy()
        mark = word_mark(tokenizer, list(tokenizer.get_vocab())).text
    except ValueError:  # it does not show where words begin
        return TokenTexts(tokenizer, None, "")
    return TokenTexts(tokenizer, kinds, mark)


def _show_row(
    row: int, arrays: dict[str, np.ndarray], kinds: np.ndarray | None, tokens: TokenTexts, color: bool
) -> str:
    ids = arrays["input_ids"]  # [L]
    labels = arrays.get("labels", np.full_like(ids, -100))
    text = _text_range(ids, arrays.get("attention_mask"), tokens.tokenizer.pad_token_id)
    original = np.where(labels >= 0, labels, ids)
    if kinds is None and tokens.kinds is not None:
        inside = (original >= 0) & (original < len(tokens.kinds))
        kinds = np.where(inside, tokens.kinds[np.where(inside, original, 0)], SPECIAL)
    if kinds is not None:
        kinds = _word_starts(kinds)
    spans = _spans(labels)
    head = f"row {row}: {len(text)} tokens"
    if kinds is not None:
        head += f", {int((kinds[text.start : text.stop] == STARTS).sum())} words"
    if "labels" not in arrays:
        return f"{head}\n  {_words(original, kinds, text, tokens)}"
    masked = int((labels >= 0).sum())
    lines = [f"{head}, {masked} masked in {len(spans)} span{'s' if len(spans) != 1 else ''}"]
    lines.append("  " + _marked_text(original, kinds, text, spans, tokens, color))
    boundaries = _boundaries(arrays)
    for span in spans:
        start, end = span.start, span.stop
        parts = [f"  {f'{start}:{end}':>7}"]
        if kinds is not None:
            words = max(1, int((kinds[start:end] == STARTS).sum()))
            cut = end < len(ids) and kinds[end] == CONTINUES
            parts.append(f"{words} word{'s' if words != 1 else ''}{', the last one cut' if cut else ''}:")
        parts.append(_words(original, kinds, span, tokens))
        replaced = _replacement(ids, labels, span, tokens)
        parts.append(f"-> {_REPLACEMENT}{replaced}{_PLAIN}" if color else f"-> {replaced}")
        if boundaries is not None:
            left, right = boundaries.get(start, (-1, -1))
            if left >= 0 and right >= 0:
                parts.append(f"| between {tokens.piece(ids[left])!r} and {tokens.piece(ids[right])!r}")
            else:
                parts.append("| no boundaries")
        lines.append(" ".join(parts))
    return "\n".join(lines)


def _text_range(ids: np.ndarray, attention_mask: np.ndarray | None, pad_token_id: int | None) -> range:
    """The positions of a row without the padding at its ends."""
    kept = attention_mask != 0 if attention_mask is not None else ids != pad_token_id
    where = np.flatnonzero(kept)
    return range(int(where[0]), int(where[-1]) + 1) if where.size else range(0)


def _word_starts(kinds: np.ndarray) -> np.ndarray:
    """Kinds as the sampler reads them: what continues a word at the row's start or after a special token starts one."""
    before = np.concatenate([[SPECIAL], kinds[:-1]])
    return np.where((kinds == CONTINUES) & (before == SPECIAL), STARTS, kinds)


def _spans(labels: np.ndarray) -> list[range]:
    """The maximal runs of positions with a label."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], labels >= 0, [0]]).astype(np.int8)))
    return [range(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _boundaries(arrays: dict[str, np.ndarray]) -> dict[int, tuple[int, int]] | None:
    """The boundaries of a row by the masked position; None where the batch has none at all."""
    names = ("masked_positions", "left_boundary", "right_boundary")
    if any(name not in arrays for name in names):
        return None
    entries = zip(*(arrays[name].tolist() for name in names), strict=True)
    return {position: (left, right) for position, left, right in entries if position >= 0}


def _words(ids: np.ndarray, kinds: np.ndarray | None, span: range, tokens: TokenTexts) -> str:
    """Tokens as they are cut: a space between words, a dot between the tokens of one."""
    text = ""
    for position in span:
        inside = kinds is not None and kinds[position] == CONTINUES and position > span.start
        text += ("·" if inside else " ") + tokens.piece(ids[position])
    return text[1:]


def _marked_text(
    ids: np.ndarray,
    kinds: np.ndarray | None,
    text: range,
    spans: Sequence[range],
    tokens: TokenTexts,
    color: bool,
) -> str:
    """The row's words, the masked spans in brackets."""
    runs, position = [], text.start
    for span in spans:
        runs += [(range(position, span.start), False), (span, True)]
        position = span.stop
    runs.append((range(position, text.stop), False))
    line = ""
    for run, masked in runs:
        if len(run) == 0:
            continue
        found = tokens.text(ids[run.start : run.stop], None if kinds is None else kinds[run.start : run.stop])
        if masked:
            found = f"{_SPAN}[{found}]{_PLAIN}" if color else f"[{found}]"
        joined = kinds is not None and kinds[run.start] == CONTINUES
        line += found if joined or not line else f" {found}"
    return line


def _replacement(ids: np.ndarray, labels: np.ndarray, span: range, tokens: TokenTexts) -> str:
    """What stands in a span's place: one word for all its tokens, or one for each."""
    mask = tokens.tokenizer.mask_token_id
    names = []
    for position in span:
        id = ids[position]
        kept = "kept" if id == labels[position] else f"{tokens.piece(id)} (random)"
        names.append(tokens.piece(mask) if id == mask else kept)
    if len(set(names)) > 1 and all(name.endswith(" (random)") for name in names):
        return " ".join(name.removesuffix(" (random)") for name in names) + " (random)"
    if len(set(names)) > 1:
        return ", ".join(names)
    return names[0] if len(names) == 1 or names[0] == "kept" else f"{names[0]} x{len(names)}"
