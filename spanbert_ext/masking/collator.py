"""The data collator that masks spans; it takes the place of transformers' DataCollatorForLanguageModeling."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from spanbert_ext.masking.batching import (
    PADDING_VALUES,
    as_features,
    by_example,
    check_ids,
    check_lengths,
    explicit_kinds,
    integral_ids,
    row_lengths,
    stack_candidates,
    stack_if_equal,
    stack_or_pad,
)
from spanbert_ext.masking.checks import (
    EPOCHS,
    choice,
    epoch_number,
    epoch_tensor,
    flag,
    integer,
    integer_tensor,
    kind_tensor,
    mask_tensor,
    real,
    shown,
    special_tensor,
)
from spanbert_ext.masking.masker import SpanMasker
from spanbert_ext.masking.row_bounds import HostNumber, batches_are_joined
from spanbert_ext.masking.row_bounds import row_bounds as bounds_of
from spanbert_ext.masking.word_kinds import token_kinds_from_word_ids

MADE_HERE = ("labels", "masked_positions", "left_boundary", "right_boundary")
MADE_HERE += ("max_rows", "max_read_rows", "all_text")
USED_HERE = ("special_tokens_mask", "token_kinds", "word_ids", "candidates", "sample_ids", "sample_epoch")
CHECKS = {
    "attention_mask": mask_tensor,
    "sample_ids": integer_tensor,
    "sample_epoch": epoch_tensor,
    "token_kinds": kind_tensor,
    "special_tokens_mask": special_tensor,
}
ALONG_TOKENS = ("attention_mask", "token_type_ids", "position_ids", "special_tokens_mask", "token_kinds")


class DataCollatorForSpanMasking:
    """Makes a batch of masked spans from tokenized rows (SpanBERT, section 2.1).

    Takes the place of transformers' `DataCollatorForLanguageModeling`. Rows are mappings of lists, arrays or
    tensors (or bare lists of ids) with `input_ids` and any other columns. Rows of one length are stacked,
    others padded.

    The batch: `input_ids`, `labels` `[B, L]`; `masked_positions`, `left_boundary`, `right_boundary` `[B, K]`
    (all int64); `attention_mask` `[B, L]`; every other column; and, behind the tensors, plain numbers that the model
    would otherwise have to read from a GPU (`row_bounds`). These columns are read and not passed on:

    * `token_kinds`: 0 continues a word, 1 starts one, 2 is never masked; or `word_ids`, with `kinds="words"`;
    * `special_tokens_mask`: where it is 1 nothing is masked, whatever the token;
    * `candidates`: half-open token spans `[[start, end], ...]` of the row to draw from first (entities, noun
      phrases);
    * `sample_ids`, `sample_epoch`: one integer per row; see below.

    They hold integers (`special_tokens_mask`: 0 and 1, or bools). Floats, integral ones too, other columns of bools and
    what int64 cannot hold are refused, never rounded.

    **Which mask a row gets** depends on `seed`, its sample id and its epoch alone. The sample id is the
    column `sample_ids`, else a hash of the row's ids. The epoch is the first of these that there is:

    1. the column `sample_epoch`;
    2. `epoch`, when given: this collator then makes the same masks forever (`evaluation()`);
    3. what `set_epoch` was last given. It lies in shared memory, so it reaches running workers too;
       `SpanMaskingCallback` calls it for you;
    4. in a DataLoader's worker: the loader's base seed plus the number of the batch (a persistent worker
       keeps its base seed in every epoch, so the seed alone would repeat the masks);
    5. otherwise a draw from torch's global generator for every batch.

    With 1 to 3 the masks are bit-identical for any batch size, number of workers or ranks, and after a
    resume. With 4 and 5 they are fresh in every epoch but depend on the set-up.

    **Evaluation** needs one fixed epoch, or its loss is noisy. With transformers' Trainer, which has one
    collator for both, add `SpanMaskingCallback(collator)` to the callbacks; without it give the evaluation
    dataset a constant `sample_epoch` column; in a loop of your own use `collator.evaluation()` for the
    evaluation loader.

    Args:
        tokenizer: with a mask token; with a padding token where rows differ in length.
        masker: a finished `SpanMasker`. Without one, `masker_options` go to `SpanMasker.from_tokenizer`.
        seed: of all masks; 64 bits.
        epoch: a fixed epoch, 0 <= epoch < 2**32.
        pad_to_multiple_of: rounds the width of the batch up.
        kinds: where words begin. "prefix": by the token's text. "words": by the word ids of a fast tokenizer;
            rows are then `BatchEncoding`s of one text, or have a column `word_ids` or `token_kinds`
            (`token_kinds_from_word_ids`).
        return_tensors: "pt" or "np".
        row_bounds: "auto" adds plain numbers: `all_text`, whether no row is padded, and `max_rows` and
            `max_read_rows`, each where it spares at least a quarter of the rows that a GPU would otherwise compute.
            They are integers whose `.to(device)` changes nothing. accelerate's dispatching loader (an iterable
            dataset in several processes, or `dispatch_batches`) joins batches of tensors alone and gets none; in
            workers that are not forked they are there, and raise TypeError: "Can only concatenate tensors". False:
            none, for that case and for ragged batches of a model that is compiled as a whole, where each of the
            numbers would be a graph. The model's option `assume_all_text` helps there.
        mlm, mlm_probability: names of the stock collator: `mlm` must stay true, `mlm_probability` is the
            masker's `ratio`.
        masker_options: `ratio`, `p`, `max_words`, ... of `SpanMasker`.

    Raises:
        ValueError: an option out of range; a dataset column that the collator makes itself; rows that
            disagree; an element that its column cannot hold.
        TypeError: an option of a wrong type; both a masker and its options; ids or other integers that are none.
        IndexError: an id beyond the tokenizer's.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        masker: SpanMasker | None = None,
        seed: int = 0,
        epoch: int | None = None,
        pad_to_multiple_of: int | None = None,
        kinds: str = "prefix",
        return_tensors: str = "pt",
        row_bounds: Literal["auto", False] = "auto",
        mlm: bool = True,
        mlm_probability: float | None = None,
        **masker_options: Any,
    ) -> None:
        if not flag("mlm", mlm):
            raise ValueError(
                "mlm=False: this collator masks; use DataCollatorForLanguageModeling for causal models"
            )
        if row_bounds is not False and not (isinstance(row_bounds, str) and row_bounds == "auto"):
            raise ValueError(f"row_bounds must be 'auto' or False, not {row_bounds!r}")
        if not hasattr(tokenizer, "pad_token_id"):
            raise TypeError(f"tokenizer is {shown(tokenizer)}; expected a transformers tokenizer")
        if masker is not None and not isinstance(masker, SpanMasker):
            raise TypeError(f"masker is {shown(masker)}; expected a SpanMasker or None")
        if mlm_probability is not None:
            masker_options.setdefault("ratio", real("mlm_probability", mlm_probability))
        if masker is not None and masker_options:
            raise TypeError(f"give a masker or its options, not both: {sorted(masker_options)}")
        self.seed = integer("seed", seed)
        self.epoch = None if epoch is None else epoch_number(epoch)
        if pad_to_multiple_of is not None:
            pad_to_multiple_of = integer("pad_to_multiple_of", pad_to_multiple_of, "an integer or None")
            if pad_to_multiple_of < 1:
                raise ValueError(f"pad_to_multiple_of must be at least 1, not {pad_to_multiple_of}")
        self.pad_to_multiple_of = pad_to_multiple_of
        self.kinds = choice("kinds", kinds, ("prefix", "words"))
        self.return_tensors = choice("return_tensors", return_tensors, ("pt", "np"))
        self.row_bounds = row_bounds
        self.tokenizer = tokenizer
        self.masker = masker if masker is not None else SpanMasker.from_tokenizer(tokenizer, **masker_options)
        self._shared_epoch = torch.tensor(-1).share_memory_()  # -1: never set
        self._batches_made = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shared_epoch.share_memory_()  # an ordinary pickle carries the value, not the sharing

    def __repr__(self) -> str:
        """One line: the tokenizer's type, the seed, and what `SpanMasker` shows and is not the default here."""
        own = {
            name: getattr(self, name)
            for name, parameter in inspect.signature(DataCollatorForSpanMasking).parameters.items()
            if name in ("epoch", "pad_to_multiple_of", "kinds", "return_tensors", "row_bounds")
            and getattr(self, name) != parameter.default
        }
        shown_options = {"seed": self.seed} | self.masker.summary() | own
        options = "".join(f", {name}={value!r}" for name, value in shown_options.items())
        return f"DataCollatorForSpanMasking({type(self.tokenizer).__name__}{options})"

    def set_epoch(self, epoch: int) -> None:
        """Masks from now on as in `epoch` (0 <= epoch < 2**32), in every worker; a fixed `epoch` stays."""
        self._shared_epoch.fill_(epoch_number(epoch))

    def evaluation(self, epoch: int = 0) -> DataCollatorForSpanMasking:
        """A collator with the same options that masks in `epoch` forever."""
        collator = copy.copy(self)
        collator.epoch = epoch_number(epoch)
        return collator

    def training(self) -> DataCollatorForSpanMasking:
        """A collator with the same options and no fixed epoch; it shares `set_epoch` with this one."""
        collator = copy.copy(self)
        collator.epoch = None
        return collator

    def __call__(self, examples: Sequence[Any], return_tensors: str | None = None) -> dict[str, Any]:
        if return_tensors is None:
            return_tensors = self.return_tensors
        choice("return_tensors", return_tensors, ("pt", "np"))
        rows = as_features(examples)
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        for name in MADE_HERE:
            if name in columns:
                raise ValueError(
                    f"the dataset has a column {name!r}, which DataCollatorForSpanMasking makes itself: "
                    f"remove it, for example with dataset.remove_columns({name!r})"
                )
        if self.kinds == "words" and "token_kinds" not in columns:
            columns["token_kinds"] = [_word_kinds(index, row) for index, row in enumerate(rows)]
        columns.pop("word_ids", None)
        batch, all_text = self._tensors(columns)
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
        for name in USED_HERE:
            batch.pop(name, None)
        if return_tensors == "np":
            batch = {name: x.numpy() if isinstance(x, Tensor) else x for name, x in batch.items()}
        if self.row_bounds == "auto" and not batches_are_joined():
            # last: accelerate expects a tensor as the first value
            positions = (masked.masked_positions, masked.left_boundary, masked.right_boundary)
            batch |= bounds_of(positions, input_ids.shape[1])
            batch["all_text"] = HostNumber(all_text)
        return batch

    def _tensors(self, given: dict[str, list[Any]]) -> tuple[dict[str, Any], bool]:
        """Every column as a tensor, those along the tokens in one width; always with an attention mask.

        Also whether the rows have no padding, so that the masker needs no mask.
        """
        columns = {name: stack_if_equal(rows) for name, rows in given.items()}
        lengths = row_lengths("input_ids", columns["input_ids"])
        width = max(lengths)
        if self.pad_to_multiple_of is not None:
            width = -(-width // self.pad_to_multiple_of) * self.pad_to_multiple_of
        ragged = min(lengths) < width
        if ragged and self.tokenizer.pad_token_id is None:
            raise ValueError(
                f"{min(lengths)} tokens need padding to {width}, but the tokenizer has no padding token"
            )
        own_mask = "attention_mask" in columns
        if not own_mask and not ragged:
            columns["attention_mask"] = torch.ones(len(lengths), width, dtype=torch.int64)
        elif not own_mask:
            columns["attention_mask"] = [torch.ones(length, dtype=torch.int64) for length in lengths]

        side = getattr(self.tokenizer, "padding_side", "right")
        batch = {}
        for name, rows in columns.items():
            value = self.tokenizer.pad_token_id if name == "input_ids" else PADDING_VALUES.get(name, 0)
            if name == "candidates":
                batch[name] = stack_candidates(
                    rows, [width - length if side == "left" else 0 for length in lengths]
                )
                continue
            along_tokens = name == "input_ids" or name in ALONG_TOKENS
            if along_tokens and name != "input_ids":
                check_lengths(name, row_lengths(name, rows), lengths)
            make = partial(stack_or_pad, name, rows, value or 0, side, width if along_tokens else None)
            if name in CHECKS and name in given:
                batch[name] = by_example(CHECKS[name], name, given[name], make, int(along_tokens))
            else:
                batch[name] = make()
            if along_tokens and not isinstance(batch[name], Tensor):
                raise TypeError(
                    f"column {name!r} holds {shown(rows[0])}; expected one list of numbers per example"
                )
        batch["input_ids"] = integral_ids(given["input_ids"], batch["input_ids"])
        all_text = not ragged and (not own_mask or bool(batch["attention_mask"].all()))
        return batch, all_text

    def _next_epoch(self, sample_epoch: Tensor | None) -> int | Tensor:
        if sample_epoch is not None:
            return sample_epoch
        if self.epoch is not None:
            return self.epoch
        shared = int(self._shared_epoch)
        if shared >= 0:
            return shared
        worker = get_worker_info()
        if worker is None:
            return int(torch.randint(EPOCHS, ()))
        batch_number = self._batches_made * worker.num_workers + worker.id
        self._batches_made += 1
        return (worker.seed - worker.id + batch_number) % EPOCHS


def _word_kinds(index: int, row: Any) -> np.ndarray:
    if "word_ids" in row:
        word_ids = row["word_ids"]
    elif getattr(row, "is_fast", False):  # a BatchEncoding that still holds the tokenizer's own encoding
        word_ids = row.word_ids()
    else:
        raise ValueError(
            f"kinds='words': example {index} has neither 'token_kinds' nor 'word_ids' and is no fast encoding; "
            f"its columns are {sorted(row)}. Make a column 'token_kinds' with "
            "token_kinds_from_word_ids(encoding.word_ids())"
        )
    try:
        kinds = token_kinds_from_word_ids(word_ids)
    except (TypeError, ValueError) as error:
        raise type(error)(f"example {index}: {error}") from None
    ids = row["input_ids"]
    if hasattr(ids, "__len__") and getattr(ids, "ndim", 1) == 1 and len(kinds) != len(ids):
        raise ValueError(f"example {index}: word_ids has {len(kinds)} entries for {len(ids)} input_ids")
    return kinds
