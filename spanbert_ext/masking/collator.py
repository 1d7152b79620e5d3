# SPDX-License-Identifier: Apache-2.0
"""The data collator that masks spans; it takes the place of transformers' DataCollatorForLanguageModeling."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import BatchEncoding

from spanbert_ext.masking.batching import as_features, check_ids, explicit_kinds, stack_if_equal, to_tensors
from spanbert_ext.masking.checks import EPOCHS, choice, epoch_number
from spanbert_ext.masking.mask_epochs import BatchEpochs, any_copy, copy_of_epoch
from spanbert_ext.masking.masker import SpanMasker
from spanbert_ext.masking.row_bounds import HostNumber, batches_are_joined
from spanbert_ext.masking.row_bounds import row_bounds as bounds_of
from spanbert_ext.masking.token_columns import token_columns_of
from spanbert_ext.masking.word_kinds import word_kinds_of_rows
from spanbert_ext.ops._common import flag, integer, real, shown

MADE_HERE = ("masked_positions", "left_boundary", "right_boundary", "max_rows", "max_read_rows", "all_text")
USED_HERE = ("special_tokens_mask", "token_kinds", "candidates", "sample_ids", "sample_epoch")
# Names of the stock collator, and what they are called here.
STOCK_NAMES = {
    "mlm_probability": "ratio",
    "mask_replace_prob": "mask_share",
    "random_replace_prob": "random_share",
}


@dataclasses.dataclass
class _Masking:
    """What a collator and those made of it share, so that an option that is set on one is set on all."""

    masker: SpanMasker
    options: dict[str, Any] | None  # of a masker that was made of the tokenizer
    read: tuple[int, tuple[int, ...]]  # what was read of the tokenizer: its length, its special ids


def _masker_option(stock_name: str) -> property:
    """An option of the masker under the stock collator's name; to set it gives the collator another masker."""
    option = STOCK_NAMES[stock_name]

    def read(self: DataCollatorForSpanMasking) -> float:
        return getattr(self.masker, option)

    def write(self: DataCollatorForSpanMasking, value: float) -> None:
        masker, nothing = copy.copy(self.masker), torch.empty(0, 0, dtype=torch.int64)
        setattr(masker, option, real(stock_name, value))
        masker(nothing, token_kinds=nothing)  # the operator checks it
        self._masking.masker = masker
        if self._masking.options is not None:
            self._masking.options = self._masking.options | {option: getattr(masker, option)}

    return property(read, write)


class DataCollatorForSpanMasking:
    """Makes a batch of masked spans from tokenized rows (SpanBERT, section 2.1).

    Takes the place of transformers' `DataCollatorForLanguageModeling`: its arguments, in their order, and its
    attributes mean the same here. Rows are mappings of lists, arrays or tensors (or bare lists of ids) with `input_ids`
    and any other columns. Rows of one length are stacked, others padded.

    The batch, a `BatchEncoding`: `input_ids`, `labels` `[B, L]`; `masked_positions`, `left_boundary`, `right_boundary`
    `[B, K]` (all int64); `attention_mask` `[B, L]`; every other column; and, behind the tensors, plain numbers that the
    model would otherwise have to read from a GPU (`row_bounds`). These columns are read and not passed on:

    * `token_kinds`: 0 continues a word, 1 starts one, 2 is never masked; or `word_ids`, with `kinds="words"`;
    * `special_tokens_mask`: where it is 1 nothing is masked, whatever the token;
    * `candidates`: half-open token spans `[[start, end], ...]` of the row to draw from (entities, noun phrases): first,
      or with the masker's `candidate_share`;
    * `sample_ids`, `sample_epoch`: one integer per row; see below;
    * `offset_mapping`, and `labels`, in whose place come those of the masked tokens: with one warning, unless they
      repeat the ids, as scripts that group texts make them.

    RoCBert's `input_shape_ids` and `input_pronunciation_ids` become those of the token that stands there after masking.
    With `pad_to_multiple_of`, columns that encoders read along the tokens (`bbox`, `langs`, ...) get the ids' width,
    and so does every other one whose rows differ in length and are each as long as the row's ids.

    Rows that are pairs may have a column `is_random_next`, or, in transformers' words, `next_sentence_label`: 1 where
    the second text is random, 0 where it continues the first, negative where there is no target. It becomes the batch's
    `is_random_next` `[B]`, for a model with `nsp=True`. Under Trainer the second name wants
    `remove_unused_columns=False`: columns that the model's forward does not name are dropped before.

    They hold integers (`special_tokens_mask` and the last two: also bools). Floats, integral ones too, other columns of
    bools and what int64 cannot hold are refused, never rounded.

    **Which mask a row gets** depends on `seed`, its sample id and its epoch alone. The sample id is the
    column `sample_ids`, else a hash of the row's ids. The epoch is the first of these that there is:

    1. the column `sample_epoch`;
    2. `epoch`, when given: this collator then makes the same masks forever (`evaluation()`);
    3. what `set_epoch` was last given. It lies in shared memory, so it reaches running workers too;
       `SpanMaskingCallback` calls it for you;
    4. a number that no other batch of this collator has: without workers that of the batch since the collator was
       made, in a DataLoader's workers one of the pass and the batch in it (`BatchEpochs`).

    With 1 to 3 the masks are bit-identical for any batch size, number of workers or ranks, and after a resume. With 4
    they are fresh in every pass, and the same in every process that makes the same batches with the same `seed`, given
    or not; they depend on the number of workers, and start anew after a resume. Torch's generators and their seeds
    have no part in it: runs that shall differ need other seeds here.

    **Static masks.** With `dupe_factor` a row has that many masks, as if it had been masked so often before training.
    1 and 3 are then taken modulo `dupe_factor`: the masks are seen in turn. With 4, which knows no epochs, each batch
    draws one of them by its number: ten passes show a row about 6.5 of ten. A fixed epoch, 2, stays what it is.

    **Evaluation** needs one fixed epoch, or its loss is noisy. With transformers' Trainer, which has one
    collator for both, add `SpanMaskingCallback(collator)` to the callbacks; without it give the evaluation
    dataset a constant `sample_epoch` column; in a loop of your own use `collator.evaluation()` for the
    evaluation loader.

    Args:
        tokenizer: with a mask token; with a padding token where rows differ in length. Tokens that are added to it
            later are read at the next batch (in running workers they are unknown).
        mlm: must stay true.
        whole_word_mask: spans are of whole words either way, and replaced as `mask_replace_prob` says;
            `scheme="tokens"` masks single tokens.
        mlm_probability, mask_replace_prob, random_replace_prob: the masker's `ratio`, `mask_share`, `random_share`.
        pad_to_multiple_of: rounds the width of the batch up.
        return_tensors: "pt" or "np".
        seed: of all masks; 64 bits. None: 0.
        masker: a finished `SpanMasker`. Without one, `masker_options` go to `SpanMasker.from_tokenizer`.
        epoch: a fixed epoch, 0 <= epoch < 2**32.
        dupe_factor: how many masks a row has, 0 <= dupe_factor < 2**32. 0: fresh ones in every epoch.
        kinds: where words begin. "prefix": by the token's text. "words": by the word ids of a fast tokenizer;
            rows are then `BatchEncoding`s of one text, or have a column `word_ids` or `token_kinds`
            (`token_kinds_from_word_ids`, `token_kinds_from_words`).
        row_bounds: "auto" adds plain numbers: `all_text`, whether no row is padded, and `max_rows` and
            `max_read_rows`, each where it spares at least a quarter of the rows that a GPU would otherwise compute.
            They are integers whose `.to(device)` changes nothing. accelerate's dispatching loader (an iterable
            dataset in several processes, or `dispatch_batches`) joins batches of tensors alone and gets none; in
            workers that are not forked they are there, and raise TypeError: "Can only concatenate tensors". False:
            none, for that case and for ragged batches of a model that is compiled as a whole, where each of the
            numbers would be a graph. The model's option `assume_all_text` helps there.
        tf_experimental_compile: of older stock collators; must stay false.
        masker_options: `ratio`, `p`, `max_words`, ... of `SpanMasker`, and `mask_additional_tokens` of its
            `from_tokenizer`.

    Raises:
        ValueError: an option out of range; a dataset column that the collator makes itself; rows that
            disagree; an element that its column cannot hold; RoCBert's columns with a tokenizer that is not its.
        TypeError: an option of a wrong type; both a masker and its options, or one option under two names; ids or
            other integers that are none.
        IndexError: an id beyond the tokenizer's.
    """

    mlm_probability = _masker_option("mlm_probability")
    mask_replace_prob = _masker_option("mask_replace_prob")
    random_replace_prob = _masker_option("random_replace_prob")

    def __init__(
        self,
        tokenizer: Any,
        mlm: bool = True,
        whole_word_mask: bool | None = None,
        mlm_probability: float | None = None,
        mask_replace_prob: float | None = None,
        random_replace_prob: float | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str = "pt",
        seed: int | None = None,
        *,
        masker: SpanMasker | None = None,
        epoch: int | None = None,
        dupe_factor: int = 0,
        kinds: str = "prefix",
        row_bounds: Literal["auto", False] = "auto",
        tf_experimental_compile: bool = False,
        **masker_options: Any,
    ) -> None:
        if not flag("mlm", mlm):
            raise ValueError(
                "mlm=False: this collator masks; use DataCollatorForLanguageModeling for causal models"
            )
        if flag("tf_experimental_compile", tf_experimental_compile):
            raise ValueError("tf_experimental_compile=True: batches are of PyTorch or NumPy alone")
        if row_bounds is not False and not (isinstance(row_bounds, str) and row_bounds == "auto"):
            raise ValueError(f"row_bounds must be 'auto' or False, not {row_bounds!r}")
        if not hasattr(tokenizer, "pad_token_id"):
            raise TypeError(f"tokenizer is {shown(tokenizer)}; expected a transformers tokenizer")
        if masker is not None and not isinstance(masker, SpanMasker):
            raise TypeError(f"masker is {shown(masker)}; expected a SpanMasker or None")
        given = zip(STOCK_NAMES, (mlm_probability, mask_replace_prob, random_replace_prob), strict=True)
        given = {name: real(name, value) for name, value in given if value is not None}
        if masker is not None and (masker_options or given):
            raise TypeError(f"give a masker or its options, not both: {sorted({**masker_options, **given})}")
        for name, value in given.items():
            if STOCK_NAMES[name] in masker_options:
                raise TypeError(f"give {name} or {STOCK_NAMES[name]}, not both: they are one option")
            masker_options[STOCK_NAMES[name]] = value
        self.seed = 0 if seed is None else integer("seed", seed)
        self.epoch = None if epoch is None else epoch_number(epoch)
        self.dupe_factor = integer("dupe_factor", dupe_factor)
        if not 0 <= self.dupe_factor < EPOCHS:
            raise ValueError(f"dupe_factor is {self.dupe_factor}; expected an integer in 0 ... 2**32 - 1")
        if pad_to_multiple_of is not None:
            pad_to_multiple_of = integer("pad_to_multiple_of", pad_to_multiple_of, "an integer or None")
            if pad_to_multiple_of < 1:
                raise ValueError(f"pad_to_multiple_of must be at least 1, not {pad_to_multiple_of}")
        self.mlm = True
        self.pad_to_multiple_of = pad_to_multiple_of
        self.kinds = choice("kinds", kinds, ("prefix", "words"))
        self.return_tensors = choice("return_tensors", return_tensors, ("pt", "np"))
        self.row_bounds = row_bounds
        self.tokenizer = tokenizer
        read = self._tokenizer_state()
        if masker is None:
            self._masking = _Masking(self._masker_of_tokenizer(masker_options), masker_options, read)
        else:
            self._masking = _Masking(masker, None, read)
        if whole_word_mask is not None:
            self.whole_word_mask = whole_word_mask
        self._shared_epoch = torch.tensor(-1).share_memory_()  # -1: never set
        self._labels_reported = torch.tensor(False).share_memory_()
        self._batch_epochs = BatchEpochs()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for shared in (self._shared_epoch, self._labels_reported):
            shared.share_memory_()  # an ordinary pickle carries the value, not the sharing

    def __repr__(self) -> str:
        """One line: the tokenizer's type, the seed, and what `SpanMasker` shows and is not the default here."""
        own = {
            name: getattr(self, name)
            for name, parameter in inspect.signature(DataCollatorForSpanMasking).parameters.items()
            if name in ("epoch", "dupe_factor", "pad_to_multiple_of", "kinds", "return_tensors", "row_bounds")
            and getattr(self, name) != parameter.default
        }
        shown_options = {"seed": self.seed} | self.masker.summary() | own
        options = "".join(f", {name}={value!r}" for name, value in shown_options.items())
        return f"DataCollatorForSpanMasking({type(self.tokenizer).__name__}{options})"

    @property
    def masker(self) -> SpanMasker:
        return self._masking.masker

    @property
    def whole_word_mask(self) -> bool:
        return self.masker.scheme != "tokens"

    @whole_word_mask.setter
    def whole_word_mask(self, value: bool) -> None:
        if flag("whole_word_mask", value) and self.masker.scheme == "tokens":
            raise TypeError("whole_word_mask=True and scheme='tokens', which masks single tokens: give one")

    def set_epoch(self, epoch: int) -> None:
        """Masks from now on as in `epoch` (0 <= epoch < 2**32), in every worker; a fixed `epoch` stays."""
        self._shared_epoch.fill_(epoch_number(epoch))

    def evaluation(self, epoch: int = 0) -> DataCollatorForSpanMasking:
        """A collator with the same options that masks in `epoch` forever."""
        collator = copy.copy(self)
        collator.epoch = epoch_number(epoch)
        return collator

    def training(self) -> DataCollatorForSpanMasking:
        """A collator with the same options and no fixed epoch; it shares `set_epoch` and the count of batches."""
        collator = copy.copy(self)
        collator.epoch = None
        return collator

    def __call__(self, examples: Sequence[Any], return_tensors: str | None = None) -> BatchEncoding:
        if return_tensors is None:
            return_tensors = self.return_tensors
        choice("return_tensors", return_tensors, ("pt", "np"))
        self._follow_tokenizer()
        rows = as_features(examples)
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        for name in MADE_HERE:
            if name in columns:
                raise ValueError(
                    f"the dataset has a column {name!r}, which DataCollatorForSpanMasking makes itself: "
                    f"remove it, for example with dataset.remove_columns({name!r})"
                )
        if "labels" in columns:
            self._replace_labels(columns.pop("labels"), columns["input_ids"])
        if self.kinds == "words" and "token_kinds" not in columns:
            columns["token_kinds"] = word_kinds_of_rows(rows)
        for name in ("word_ids", "offset_mapping"):
            columns.pop(name, None)
        batch, all_text = to_tensors(columns, self.tokenizer, self.pad_to_multiple_of)
        if "next_sentence_label" in batch:
            if "is_random_next" in batch:
                raise ValueError(
                    "the dataset has columns 'is_random_next' and 'next_sentence_label': give one"
                )
            batch["is_random_next"] = batch.pop("next_sentence_label")
        input_ids, special = batch["input_ids"], batch.get("special_tokens_mask")
        table = torch.as_tensor(self.masker.kinds)  # [V]
        if self.kinds == "words":  # by word ids a [SEP] that was typed in the text is a word
            check_ids(input_ids, table.numel(), "the tokenizer")
            by_id = table[input_ids] == 2
            special = by_id if special is None else special | by_id

        masked = self.masker(
            input_ids,
            None if all_text else batch["attention_mask"],
            seed=self.seed,
            epoch=self._next_epoch(batch.get("sample_epoch")),
            sample_ids=batch.get("sample_ids"),
            token_kinds=explicit_kinds(table, input_ids, batch.get("token_kinds"), special),
            candidates=batch.get("candidates"),
        )
        batch.update(masked.as_dict())
        batch |= token_columns_of(batch, masked.input_ids, masked.labels >= 0, self.tokenizer)
        for name in USED_HERE:
            batch.pop(name, None)
        if return_tensors == "np":
            batch = {name: x.numpy() if isinstance(x, Tensor) else x for name, x in batch.items()}
        if self.row_bounds == "auto" and not batches_are_joined():
            # last: accelerate expects a tensor as the first value
            positions = (masked.masked_positions, masked.left_boundary, masked.right_boundary)
            batch |= bounds_of(positions, input_ids.shape[1])
            batch["all_text"] = HostNumber(all_text)
        return BatchEncoding(batch)

    def _tokenizer_state(self) -> tuple[int, tuple[int, ...]]:
        return len(self.tokenizer), tuple(self.tokenizer.all_special_ids)

    def _masker_of_tokenizer(self, options: dict[str, Any]) -> SpanMasker:
        return SpanMasker.from_tokenizer(self.tokenizer, kinds=self.kinds, **options)

    def _follow_tokenizer(self) -> None:
        """Reads a tokenizer again that has got tokens, or whose tokens became special, since it was read."""
        masking = self._masking
        if masking.options is None:
            return
        state = self._tokenizer_state()
        if state != masking.read:
            masking.masker, masking.read = self._masker_of_tokenizer(masking.options), state

    def _replace_labels(self, labels: Sequence[Any], input_ids: Sequence[Any]) -> None:
        """Says once that a column of labels is lost, unless it says no more than the ids."""
        if self._labels_reported or _labels_repeat_ids(labels, input_ids):
            return
        self._labels_reported.fill_(True)
        warnings.warn(
            "the dataset's column 'labels' is no copy of input_ids. DataCollatorForSpanMasking puts the ids of the "
            "masked tokens in its place, as transformers' collator does; dataset.remove_columns('labels') ends this "
            "warning",
            stacklevel=3,
        )

    def _next_epoch(self, sample_epoch: Tensor | None) -> int | Tensor:
        if sample_epoch is not None:
            return copy_of_epoch(sample_epoch, self.dupe_factor)
        if self.epoch is not None:
            return self.epoch
        shared = int(self._shared_epoch)
        if shared >= 0:
            return copy_of_epoch(shared, self.dupe_factor)
        return any_copy(self._batch_epochs.next(), self.dupe_factor)


def _labels_repeat_ids(labels: Sequence[Any], input_ids: Sequence[Any]) -> bool:
    """Whether a column of labels says no more than the rows' ids: each is its token's id, or -100."""
    all_labels, all_ids = stack_if_equal(labels), stack_if_equal(input_ids)
    if isinstance(all_labels, Tensor) and isinstance(all_ids, Tensor):
        same_shape = all_labels.shape == all_ids.shape
        return same_shape and bool(((all_labels == all_ids) | (all_labels == -100)).all())
    return all(map(_row_repeats_ids, labels, input_ids))


def _row_repeats_ids(labels: Any, ids: Any) -> bool:
    if isinstance(labels, list) and labels == ids:
        return True
    try:
        labels, ids = np.asarray(labels), np.asarray(ids)
    except (TypeError, ValueError, RuntimeError):  # lists of different lengths; tensors on a GPU
        return False
    if labels.dtype.kind not in "biuf" or labels.shape != ids.shape:
        return False
    return bool(((labels == ids) | (labels == -100)).all())
