# SPDX-License-Identifier: Apache-2.0
"""SpanMasker: span masking (SpanBERT 2.1) as a callable for one vocabulary, and the batch it returns."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from spanbert_ext.masking.checks import choice, integer_tensor, kind_tensor, mask_tensor
from spanbert_ext.masking.show import show_spans
from spanbert_ext.masking.word_kinds import SPECIAL, STARTS, vocabulary_kinds
from spanbert_ext.ops._common import flag, integer, real, shown
from spanbert_ext.ops.span_mask import span_mask

Array = Tensor | np.ndarray

# A mean word beyond this many tokens means that the vocabulary does not show the words (text without spaces).
_LONG_WORD, _ENOUGH_TOKENS = 6, 1000


@dataclasses.dataclass(repr=False)
class MaskedBatch:
    """Masked text with what the heads need: torch tensors, or NumPy arrays when the masker was given arrays.

    K = ceil(ratio * L); the `[B, K]` arrays list a row's masked tokens by position and are padded with -1.
    """

    input_ids: Array  # [B, L] the dtype of the input, ids after replacement
    labels: Array  # [B, L] int64, the original id at masked positions, else -100
    masked_positions: Array  # [B, K] int64
    left_boundary: Array  # [B, K] int64, the position before the token's span, -1: no SBO target
    right_boundary: Array  # [B, K] int64, the position after it, -1: no SBO target

    def __repr__(self) -> str:
        """One line: dtypes and shapes, and on the CPU the number of masked tokens."""
        arrays = self.as_dict()
        parts = [f"{name}={str(x.dtype).removeprefix('torch.')}{list(x.shape)}" for name, x in arrays.items()]
        positions = self.masked_positions
        if isinstance(positions, Tensor):
            parts.append(f"device={str(positions.device)!r}")
        # a subclass may have no elements to count, as inside torch.compile
        if isinstance(positions, np.ndarray) or (
            type(positions) is Tensor and positions.device.type == "cpu"
        ):
            parts.append(f"masked_tokens={int((positions >= 0).sum())}")
        return f"MaskedBatch({', '.join(parts)})"

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MaskedBatch:
        """The batch as tensors on `device`."""
        moved = {
            name: torch.as_tensor(value).to(device, non_blocking=non_blocking)
            for name, value in self.as_dict().items()
        }
        return MaskedBatch(**moved)

    def as_dict(self) -> dict[str, Array]:
        """The arrays by name, as a model's forward takes them. Not copied."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def spans(self) -> list[list[tuple[int, int]]]:
        """For people: each row's masked spans as half-open token ranges, from left to right."""
        rows = []
        for positions in self.masked_positions.tolist():
            spans: list[tuple[int, int]] = []
            for position in positions:
                if position < 0:
                    break
                if spans and spans[-1][1] == position:
                    spans[-1] = (spans[-1][0], position + 1)
                else:
                    spans.append((position, position + 1))
            rows.append(spans)
        return rows

    def show(self, tokenizer: Any, **options: Any) -> str:
        """For people: `print(batch.show(tokenizer))` prints words and spans. `options` are those of `show_spans`."""
        return show_spans(self.as_dict(), tokenizer, **options)


class SpanMasker:
    """Masks batches of token ids. The masks depend on the row, its sample id, `seed` and `epoch` alone.

    Runs on the device of its input (its own tables follow and stay there), takes NumPy arrays too, and can be
    pickled.

    Args:
        kinds: `[V]` by id: 0 continues a word, 1 starts one, 2 is special (never masked, never a boundary).
        mask_token_id: the id of the mask token.
        vocab_size: V, the number of ids; every id beyond it is refused.
        ratio: share of a row's non-special tokens to mask, rounded up.
        p, max_words: spans have a geometric(p) number of words, truncated to 1..max_words.
        pad_token_id: positions with this id are padding, and so are those that the attention mask leaves out.
        random_ids: `[R]`, ids for random replacement; by default all that are not special. An id that stands
            there twice is drawn twice as often, so a corpus' own tokens give its unigram distribution.
        position_slots: tokens of a span beyond this many have no SBO target.
        mask_share, random_share: what becomes [MASK] and random ids; the rest stays as it is.
        replacement: "span" draws that once for each span, "token" for each token, as BERT does.
        scheme: "geometric" spans, whole "words", or single "tokens" (the paper's other maskings).
        candidate_share: of the draws that mask one of a call's candidates, while one can be drawn; the others mask
            what `scheme` says. The paper's entities and noun phrases are 0.5 with "words".
        fill_after_candidates: when a call's candidates are used up, go on with `scheme`.

    Raises:
        ValueError, TypeError, IndexError: an option is wrong. No number is rounded, and a bool is none.
    """

    def __init__(
        self,
        kinds: Array | Sequence[int],
        mask_token_id: int,
        vocab_size: int,
        *,
        ratio: float = 0.15,
        p: float = 0.2,
        max_words: int = 10,
        pad_token_id: int | None = None,
        random_ids: Array | Sequence[int] | None = None,
        position_slots: int = 20,
        mask_share: float = 0.8,
        random_share: float = 0.1,
        replacement: Literal["span", "token"] = "span",
        scheme: Literal["geometric", "words", "tokens"] = "geometric",
        candidate_share: float = 1.0,
        fill_after_candidates: bool = True,
    ) -> None:
        self.vocab_size = integer("vocab_size", vocab_size)
        self.kinds = kind_tensor("kinds", kinds, "cpu").clone()  # [V]
        if self.kinds.shape != (self.vocab_size,):
            raise ValueError(
                f"kinds has shape {list(self.kinds.shape)}; expected [vocab_size] = [{self.vocab_size}]"
            )
        if random_ids is None:
            random_ids = (self.kinds != SPECIAL).nonzero().squeeze(1)
        self.random_ids = integer_tensor(
            "random_ids", random_ids, "cpu", "token ids, integers"
        ).clone()  # [R]
        if self.random_ids.dim() != 1:
            raise ValueError(f"random_ids has shape {list(self.random_ids.shape)}; expected [R]")
        self.mask_token_id = integer("mask_token_id", mask_token_id)
        if pad_token_id is not None:
            pad_token_id = integer("pad_token_id", pad_token_id, "an integer or None")
        self.pad_token_id = pad_token_id
        self.ratio = real("ratio", ratio)
        self.p = real("p", p)
        self.max_words = integer("max_words", max_words)
        self.position_slots = integer("position_slots", position_slots)
        self.mask_share = real("mask_share", mask_share)
        self.random_share = real("random_share", random_share)
        self.replacement = choice("replacement", replacement, ("span", "token"))
        self.scheme = choice("scheme", scheme, ("geometric", "words", "tokens"))
        self.candidate_share = real("candidate_share", candidate_share)
        self.fill_after_candidates = flag("fill_after_candidates", fill_after_candidates)
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._tokens_seen = self._words_seen = 0
        self._needs_token_kinds = False
        self(torch.empty(0, 0, dtype=torch.int64))  # the operator checks every option

    @classmethod
    def from_tokenizer(
        cls,
        tokenizer: Any,
        *,
        kinds: Literal["prefix", "words"] = "prefix",
        mask_additional_tokens: bool = False,
        **options: Any,
    ) -> SpanMasker:
        """A masker with the words, special ids and pool of random ids of a transformers tokenizer.

        Random ids are drawn from all ids below `len(tokenizer)` but special and unused ones. See
        `spanbert_ext.masking.word_kinds` for the rules.

        Args:
            kinds: where words begin. "prefix": by the marks of the vocabulary. "words": each call brings its
                `token_kinds`, as the collator's does with its option of that name.
            mask_additional_tokens: take special tokens without a role of their own, such as `[E1]` of
                `extra_special_tokens`, for words. By default they are never masked and never random ids.
            options: those of `SpanMasker`.

        Raises:
            ValueError: no mask token; a vocabulary of special tokens alone; with "prefix", one that does not mark the
                beginnings of words (`scheme="tokens"` needs none).
        """
        choice("kinds", kinds, ("prefix", "words"))
        flag("mask_additional_tokens", mask_additional_tokens)
        if not hasattr(tokenizer, "get_vocab"):
            raise TypeError(f"tokenizer is {shown(tokenizer)}; expected a transformers tokenizer")
        if getattr(tokenizer, "mask_token_id", None) is None:
            raise ValueError(
                f"{type(tokenizer).__name__} has no mask token. Add one: tokenizer.add_special_tokens("
                "{'mask_token': '[MASK]'}), then model.resize_token_embeddings(len(tokenizer))"
            )
        by_marks = kinds == "prefix" and options.get("scheme") != "tokens"
        vocabulary = vocabulary_kinds(
            tokenizer, marked=by_marks, mask_additional_tokens=mask_additional_tokens
        )
        options.setdefault("random_ids", vocabulary.random_ids)
        options.setdefault("pad_token_id", tokenizer.pad_token_id)
        masker = cls(vocabulary.kinds, tokenizer.mask_token_id, vocabulary.kinds.numel(), **options)
        masker._needs_token_kinds = kinds == "words" and masker.scheme != "tokens"
        return masker

    def __call__(
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        *,
        seed: int | Tensor = 0,
        epoch: int | Array = 0,
        sample_ids: Array | Sequence[int] | None = None,
        token_kinds: Array | None = None,
        candidates: Array | None = None,
    ) -> MaskedBatch:
        """Masks a batch; the input is not changed.

        Args:
            input_ids: int64 or int32 `[B, L]` (as a NumPy array any integer type).
            attention_mask: bool or integer `[B, L]`, 0 marks padding.
            seed: an int, or an int64 tensor without dimension.
            epoch: 0 to 2^32 - 1, one for all or `[B]`.
            sample_ids: `[B]`, names of the rows; by default a hash of each row's ids.
            token_kinds: `[B, L]` kinds of these very tokens, in place of the table by id.
            candidates: int64 `[B, M, 2]`, token spans `[start, end)` to draw from (entities, noun phrases), padded
                with -1. By default they are masked first; see `candidate_share`.

        Integers are integers: floats, integral ones too, bools and what int64 cannot hold are refused. On a GPU
        elements are checked only when SPANBERT_EXT_DEBUG=1; there a wide `token_kinds` that is none becomes special.

        Raises:
            TypeError, ValueError, IndexError: naming the argument, what it is and what was expected.
        """
        if self._needs_token_kinds and token_kinds is None:
            raise ValueError(
                "token_kinds is None; expected the kinds of this batch's tokens, as the masker was made with "
                "kinds='words'"
            )
        from_numpy = isinstance(input_ids, np.ndarray)
        ids = _as_ids(input_ids)
        device = ids.device
        kinds, random_ids = self.tables_on(device)
        if token_kinds is not None:
            kinds = kind_tensor("token_kinds", token_kinds, device)
            if kinds.shape != ids.shape:
                raise ValueError(f"token_kinds has shape {[*kinds.shape]}; expected [B, L] = {[*ids.shape]}")
            if self.scheme == "tokens":
                kinds = kinds.clamp(min=STARTS)
        masked = span_mask(
            ids,
            kinds,
            random_ids,
            seed=seed if isinstance(seed, Tensor) else integer("seed", seed, "an integer or an int64 tensor"),
            epoch=_as_epoch(epoch, device),
            attention_mask=None
            if attention_mask is None
            else mask_tensor("attention_mask", attention_mask, device),
            sample_ids=None if sample_ids is None else integer_tensor("sample_ids", sample_ids, device),
            candidates=None if candidates is None else integer_tensor("candidates", candidates, device),
            vocab_size=self.vocab_size,
            mask_token_id=self.mask_token_id,
            pad_token_id=-1 if self.pad_token_id is None else self.pad_token_id,
            ratio=self.ratio,
            p=self.p,
            max_words=self.max_words if self.scheme == "geometric" else 1,
            position_slots=self.position_slots,
            mask_share=self.mask_share,
            random_share=self.random_share,
            replace_per_token=self.replacement == "token",
            fill_after_candidates=self.fill_after_candidates,
            candidate_share=self.candidate_share,
        )
        if token_kinds is None:
            self._watch_word_length(ids)
        return MaskedBatch(*(x.numpy() for x in masked)) if from_numpy else MaskedBatch(*masked)

    def __repr__(self) -> str:
        """One line: the vocabulary in numbers, and the options that are not the default ones."""
        return f"SpanMasker({', '.join(f'{name}={value!r}' for name, value in self.summary().items())})"

    def summary(self) -> dict[str, Any]:
        """The vocabulary in numbers, and the options that are not the default ones, by name."""
        numbers = {"vocab_size": self.vocab_size, "special_ids": int((self.kinds == SPECIAL).sum())}
        options = {
            name: getattr(self, name)
            for name, parameter in inspect.signature(SpanMasker).parameters.items()
            if name not in ("kinds", "vocab_size", "random_ids") and getattr(self, name) != parameter.default
        }
        return numbers | options

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}}  # every process makes its own copies on its own devices

    def tables_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Kinds uint8 `[V]`, as the scheme needs them, and the pool of random ids int64 `[R]`, on `device`.

        They are copied there once; later calls wait for nothing and may be captured in a CUDA graph.
        """
        if device not in self._tables:
            table = self.kinds.clamp(min=STARTS) if self.scheme == "tokens" else self.kinds
            self._tables[device] = (table.to(device), self.random_ids.to(device))
        return self._tables[device]

    def _watch_word_length(self, ids: Tensor) -> None:
        """Warns once when the first thousand tokens show that the vocabulary does not mark words.

        On the CPU only: elsewhere the answer would cost a synchronisation.
        """
        unneeded = self.scheme == "tokens" or self._tokens_seen >= _ENOUGH_TOKENS or ids.device.type != "cpu"
        if unneeded or torch.compiler.is_compiling():
            return
        kinds = self.kinds[ids.long()]
        self._tokens_seen += int((kinds != SPECIAL).sum())
        self._words_seen += int((kinds == STARTS).sum())
        if self._tokens_seen >= max(_ENOUGH_TOKENS, _LONG_WORD * self._words_seen + 1):
            warnings.warn(
                f"{self._tokens_seen} tokens make {self._words_seen} words by the vocabulary's marks, more "
                f"than {_LONG_WORD} tokens a word. For a language without spaces pass token_kinds, for "
                "example with DataCollatorForSpanMasking(kinds='words')",
                stacklevel=3,
            )


def _as_ids(input_ids: Array) -> Tensor:
    if isinstance(input_ids, np.ndarray):
        if input_ids.dtype.kind not in "iu":
            raise TypeError(f"input_ids is {shown(input_ids)}; expected integers")
        if input_ids.dtype == np.int32:
            return torch.from_numpy(np.require(input_ids, np.int32, ["C", "W"]))
        return integer_tensor("input_ids", input_ids)
    if not isinstance(input_ids, Tensor):
        raise TypeError(f"input_ids is {shown(input_ids)}; expected a tensor or a NumPy array")
    if input_ids.is_nested:
        raise TypeError("input_ids is a nested tensor; expected rows of one length, [B, L]")
    return input_ids


def _as_epoch(epoch: int | Array | Sequence[int], device: torch.device) -> int | Tensor:
    expected = "integers in 0 ... 2^32 - 1, one for all or [B]"
    if isinstance(epoch, (Tensor, np.ndarray, list, tuple, range)):
        return integer_tensor("epoch", epoch, device, expected)
    return integer("epoch", epoch, expected)
