# SPDX-License-Identifier: Apache-2.0
"""The model class: a masked language model of transformers with a span-boundary head beside its own."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from spanbert_ext.masking.batching import check_ids
from spanbert_ext.masking.token_columns import refuse_token_columns
from spanbert_ext.models.evaluation import logits_are_read
from spanbert_ext.models.families import Family
from spanbert_ext.models.head_loss import find_heads, head_loss
from spanbert_ext.models.inputs import (
    check_labels,
    encode,
    encoder_mask,
    given_indices,
    plain_bound,
    scalar,
    taken_inputs,
    truth,
    with_native_parameters,
)
from spanbert_ext.models.last_layers import LayerShape
from spanbert_ext.models.masking_here import MaskingHere
from spanbert_ext.models.mlm_heads import HeadShape
from spanbert_ext.models.model_card import TAGS
from spanbert_ext.models.native_classes import (
    check_head,
    compare_head,
    config_of_class_named,
    find_native,
)
from spanbert_ext.models.native_folders import NativeFolders
from spanbert_ext.models.next_sentence import check_pairs, given_pairs, next_sentence_loss, sentence_logits
from spanbert_ext.models.options import DEFAULT_OPTIONS, resolve_options, wants_nsp
from spanbert_ext.models.output import IGNORED_AT_INFERENCE, SpanBertForPreTrainingOutput, span_metrics
from spanbert_ext.models.read_rows import labelled_positions, may_wait_for, only_rows, prepare_rows
from spanbert_ext.models.span_boundary_head import SpanBoundaryHead

__all__ = ["SpanBertForPreTraining", "SpanBertForPreTrainingOutput", "concrete_class", "span_metrics"]


class SpanBertForPreTraining(NativeFolders, MaskingHere):
    """A native masked language model that also predicts spans from their boundaries (SpanBERT, section 2.2).

    `SpanBertForPreTraining.from_pretrained(folder)`, `.from_config(config)` and
    `SpanBertForPreTraining(config)` return a class made of this one and the native class of the configuration
    (`BertForSpanPreTraining` from `BertForMaskedLM`). It is a drop-in for the native class: same parameter
    names plus `sbo.*`, a folder that `AutoModel` and its kin load, logits for inputs without labels.
    Supported model types: the keys of `FAMILIES`, and what `register_family` adds to them.

    With `nsp=True` it predicts the next sentence too, by the pooler and the head of the native pre-training class,
    which is the base then (`BertForSpanSentencePreTraining` from `BertForPreTraining`): BERT, BigBird, ERNIE, FNet and
    Megatron-BERT have one. Without it there is no pooler, as in the native masked language model.

    Options, in the constructors' keyword arguments and then in `config.span_pretraining`: `nsp` (False); `position_dim`
    (200) and `position_slots` (20), the sizes of the SBO's position table; `sbo_weight` (1), the SBO's share
    in the loss; `label_smoothing` (0), of the MLM and the SBO in training, in place of Trainer's own, which takes the
    labels away; `skip_unread_rows` (True), whether the encoder's last layer, when there is a loss, leaves its
    output at zero and does not compute it in rows that no head reads: False, or `output_hidden_states`, for hooks
    of yours inside the encoder that expect all of them; `count_rows` (True), whether labels without index tensors
    are counted on the host before the encoder runs, which is one synchronisation on CUDA: without it, all L
    positions are decoded there; `assume_all_text` (False), whether every batch is without padding, as
    `forward(all_text=True)` says of one; `evaluation_loss` ("mlm"), what `loss` is in `eval()`: the MLM's mean, as of
    the native class, so that its exponential is the perplexity of masked tokens, or "sum", as in training;
    `evaluation_logits` ("auto"), whether a batch with labels gives logits in `eval()`, as the native class does, or
    `row_statistics` in their place: "auto" gives statistics to a Trainer whose `compute_metrics` is `span_metrics`
    (which tells how functions around it are recognised), or that keeps nothing but the loss, and logits to
    everybody else; under nn.DataParallel and in a model compiled as a whole always logits; `impl` ("fused"), or
    "reference" for both heads' loss in plain PyTorch, which needs none of our kernels, and memory for all logits.

    Masking in `forward`: after `set_masker(masker)` text without labels is masked on its own device, in
    training by a step that is counted on the device, in evaluation always by the same one. Such a batch has
    no labels, so Trainer evaluates it only with `TrainingArguments(label_names=[])`. `return_loss=False`
    gives logits of the text as it is.

    Raises (constructors):
        ValueError: an unsupported model type, or an option of another type or out of range.
        TypeError: called on a subclass of this class; subclass the one made for a model type.
    """

    accepts_loss_kwargs = True  # Trainer leaves the division by num_items_in_batch to the model
    family: Family
    head_shape: HeadShape  # where the MLM head's modules are
    layer_shape: LayerShape | None  # where those behind the last attention are

    def __new__(cls, config: Any = None, *args: Any, nsp: bool | None = None, **kwargs: Any) -> Any:
        nsp = wants_nsp(getattr(config, "span_pretraining", None), nsp)
        return super().__new__(cls.made_for(type(config), nsp))

    @classmethod
    def made_for(cls, config_class: type, nsp: bool = False) -> type:
        """The class whose models have configurations of that type: `cls` itself, unless it is for any.

        Raises:
            TypeError: `cls` is a subclass that is for any, and so has no native class.
        """
        if cls._is_for_one_type():
            return cls
        made = concrete_class(config_class, nsp)
        if cls is not SpanBertForPreTraining:
            raise TypeError(
                f"{cls.__name__} is a subclass of SpanBertForPreTraining, which makes the classes of models: "
                f"for {config_class.__name__} subclass {made.__module__}.{made.__name__}"
            )
        return made

    def __init__(
        self,
        config: Any,
        *args: Any,
        nsp: bool | None = None,
        position_dim: int | None = None,
        position_slots: int | None = None,
        sbo_weight: float | None = None,
        label_smoothing: float | None = None,
        skip_unread_rows: bool | None = None,
        count_rows: bool | None = None,
        assume_all_text: bool | None = None,
        evaluation_loss: str | None = None,
        evaluation_logits: bool | str | None = None,
        impl: str | None = None,
        **kwargs: Any,
    ) -> None:
        refused = None if self.family.refuse is None else self.family.refuse(config)
        if refused is not None:
            raise ValueError(
                f"SpanBertForPreTraining does not support this {type(config).__name__}: {refused}"
            )
        has_nsp = self.head_shape.nsp is not None
        if nsp is not None and wants_nsp(None, nsp) != has_nsp:
            raise ValueError(
                f"nsp is {nsp}, but {type(self).__name__} is the class {'with' if has_nsp else 'without'} an NSP head: "
                "SpanBertForPreTraining takes the one that fits"
            )
        config = copy.deepcopy(config)  # the options belong to this model, not to the caller's object
        given = {
            "nsp": has_nsp,
            "position_dim": position_dim,
            "position_slots": position_slots,
            "sbo_weight": sbo_weight,
            "label_smoothing": label_smoothing,
            "skip_unread_rows": skip_unread_rows,
            "count_rows": count_rows,
            "assume_all_text": assume_all_text,
            "evaluation_loss": evaluation_loss,
            "evaluation_logits": evaluation_logits,
            "impl": impl,
        }
        options = resolve_options(getattr(config, "span_pretraining", None), given)
        config.span_pretraining = options
        config.keys_to_ignore_at_inference = IGNORED_AT_INFERENCE
        super().__init__(config, *args, **kwargs)
        self.model_tags = [*TAGS]  # on the hub
        self.loss_type = "ForMaskedLM"  # of loss_function: transformers reads it off the name of the class

        check_head(self, self.head_shape)
        self.head_shape = self.head_shape.as_built(self)
        self.head_compared = not (self.family.registered and self.head_shape.around)  # once is enough
        self.encoder_takes = taken_inputs(self.base_model)
        vocab_size, width = self.get_output_embeddings().weight.shape
        eps = self.family.eps
        self.sbo = SpanBoundaryHead(
            config.hidden_size,
            width,
            vocab_size,
            options["position_dim"],
            options["position_slots"],
            getattr(config, eps) if isinstance(eps, str) else eps,
        )
        # how often forward has masked in training; not saved, `masking_step.fill_(n)` resumes a run
        self.register_buffer("masking_step", torch.zeros((), dtype=torch.int64), persistent=False)
        self.post_init()  # once more, for the modules that the native class does not know
        prepare_rows(self)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        masked_positions: Tensor | None = None,
        left_boundary: Tensor | None = None,
        right_boundary: Tensor | None = None,
        is_random_next: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        num_sbo_items: Tensor | int | None = None,
        num_nsp_items: Tensor | int | None = None,
        sample_ids: Tensor | None = None,
        sample_epoch: Tensor | None = None,
        token_kinds: Tensor | None = None,
        special_tokens_mask: Tensor | None = None,
        candidates: Tensor | None = None,
        return_logits: bool | None = None,
        return_loss: bool = True,
        max_rows: int | None = None,
        max_read_rows: int | None = None,
        all_text: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SpanBertForPreTrainingOutput | tuple[Any, ...]:
        """The loss of a masked batch, in evaluation with logits, or the logits of a plain one.

        In training `loss` is the sum of the heads', each a mean; in `eval()` the MLM's alone, see `evaluation_loss`.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, kwargs: the encoder's.
            labels: [B, L] int64 original ids, negative where there is no target. Without index tensors (the
                stock collator) the MLM head predicts every labelled position; see `count_rows`.
            masked_positions: [B, K] int64 from `SpanMasker` or the collator: the MLM head predicts these.
            left_boundary, right_boundary: [B, K] int64. Without them there is no SBO; under
                DistributedDataParallel freeze `model.sbo` then.
            is_random_next: [B] int64: 1 where the second part of a pair is random, 0 where it continues the first,
                negative where there is no target; for a model with `nsp=True`, which is not trained without.
            num_items_in_batch, num_sbo_items, num_nsp_items: each head's targets over all accumulated batches and
                processes, in place of its own count. Trainer passes the first, SpanMaskingCallback the others, which
                mean nothing without the first. With the first alone the other means are weighted by this batch's share
                of the MLM targets, which is exact only when all batches have the same ratio of their targets to those.
            sample_ids, sample_epoch: [B] int64; token_kinds, special_tokens_mask: [B, L]; candidates:
                [B, M, 2]: for masking here, ignored where labels are given. They stand in the signature
                because Trainer drops columns that do not.
            return_logits: whether the logits [B, L, V] come when there is a loss; None: not in training, and in
                `eval()` as `evaluation_logits` says, in the place of `row_statistics`; of text that is masked here
                only by True. Without a loss they always come.
            return_loss: False leaves text without labels unmasked although there is a masker.
            max_rows, max_read_rows: bounds, which the collator computes, of the masked positions (with a label, with
                boundaries) and of the rows of hidden states that the heads read (those, the boundaries, the first of
                each row). They spare CUDA what it would compute for the most that there could be, and may be too
                large, as for part of a batch. Too small a bound, where it is used, makes the loss NaN if nothing is
                counted (CUDA, torch.compile) and raises on the CPU.
            all_text: whether no position is padding. Then the encoder gets no attention_mask, which means the same
                as ones; if not, a mask that is ready. Either spares a synchronisation on CUDA; None: transformers
                reads attention_mask to find out.
            return_dict: False, or so in the configuration, gives a tuple, with the native class's outputs alone.

        Raises:
            ValueError: index tensors or is_random_next without labels, or boundaries that are not a pair beside masked
                positions; is_random_next without an NSP head, or missing where one is trained; too small a bound;
                all_text with an attention_mask that has zeros (on a GPU only when SPANBERT_EXT_DEBUG=1).
            TypeError: a bound that is no integer, an all_text that is no bool, an is_random_next that is no int64.
            IndexError: an id outside the vocabulary, an is_random_next above 1 (on a GPU only when
                SPANBERT_EXT_DEBUG=1).
        """
        options = DEFAULT_OPTIONS | self.config.span_pretraining
        indices = given_indices(labels, masked_positions, left_boundary, right_boundary)
        pairs = given_pairs(is_random_next, kwargs)
        max_rows = plain_bound("max_rows", max_rows)
        max_read_rows = plain_bound("max_read_rows", max_read_rows)
        return_loss = truth("return_loss", return_loss)
        if return_logits is not None:
            truth("return_logits", return_logits)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        unasked = return_logits is None and labels is not None and not self.training
        unasked = unasked and logits_are_read(options["evaluation_logits"], return_dict)
        seen = encoder_mask(self.config, self.family, attention_mask, all_text)
        if input_ids is not None:
            check_ids(input_ids, self.config.vocab_size, "the model")
        if labels is None and input_ids is not None and self.masker is not None and return_loss:
            refuse_token_columns(kwargs)
            masked = self.mask_here(
                input_ids,
                attention_mask,
                sample_ids,
                sample_epoch,
                token_kinds,
                special_tokens_mask,
                candidates,
            )
            input_ids, labels = masked.input_ids, masked.labels
            indices = (masked.masked_positions, masked.left_boundary, masked.right_boundary)

        inputs = {
            "input_ids": input_ids,
            "attention_mask": seen,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        inputs = {name: value for name, value in inputs.items() if value is not None}
        with_sbo, text = len(indices) == 3, input_ids if input_ids is not None else inputs_embeds
        if labels is not None:
            check_labels(labels, text, self.config.vocab_size)
        if labels is not None or return_loss:
            check_pairs(pairs, labels, self.head_shape.nsp is not None, self.training)
        if labels is not None and not indices:
            labelled = labelled_positions(labels, options["count_rows"])
            indices = (labelled.positions,)
            max_rows = labelled.max_rows if max_rows is None else max_rows
            max_read_rows = labelled.max_read_rows if max_read_rows is None else max_read_rows
        with_logits = labels is None or unasked or bool(return_logits)
        shown = with_logits or kwargs.get("output_hidden_states") or self.config.output_hidden_states
        heads = find_heads(self, with_sbo)
        all_rows = shown or not options["skip_unread_rows"] or heads.read_all_rows
        with only_rows(self, text, None if all_rows else indices, max_read_rows):
            encoded = encode(self, inputs, kwargs)
        x = encoded[0]  # [B, L, H]

        fields = {"hidden_states": encoded.get("hidden_states"), "attentions": encoded.get("attentions")}
        if heads.mlm.nsp is not None:
            heads, fields["seq_relationship_logits"] = sentence_logits(heads, x, encoded.pooler_output)
        if with_logits:
            fields["logits"] = heads.mlm.whole(x)
        if labels is not None:
            if not self.head_compared and heads.whole_mlm is None and may_wait_for(x):
                compare_head(self, heads.mlm, x)
                self.head_compared = True
            in_sum = self.training or options["evaluation_loss"] == "sum"
            items = scalar("num_items_in_batch", num_items_in_batch)
            # A compute_loss of the user's may leave out the first, and then wants the batch's own means.
            sbo_items = None if items is None else scalar("num_sbo_items", num_sbo_items)
            nsp_items = None if items is None else scalar("num_nsp_items", num_nsp_items)
            losses = head_loss(
                heads,
                x,
                labels,
                *indices,
                sbo_weight=options["sbo_weight"] if in_sum else None,
                num_items_in_batch=items,
                num_sbo_items=sbo_items,
                label_smoothing=options["label_smoothing"] if self.training else 0.0,
                max_rows=max_rows,
                impl=options["impl"],
            )
            found = losses._asdict().items()
            fields |= {name: x for name, x in found if with_sbo or not name.startswith("sbo_")}
            if pairs is not None:
                of_pairs = fields["seq_relationship_logits"]
                fields |= next_sentence_loss(of_pairs, pairs, losses.mlm_count, items, nsp_items)._asdict()
                fields["loss"] = losses.loss + fields["loss"] if in_sum else losses.loss
        if unasked:
            fields["row_statistics"] = fields["nsp_statistics"] = None
        output = SpanBertForPreTrainingOutput(**fields)
        return output if return_dict else output.to_tuple()


def concrete_class(config_class: type, nsp: bool = False) -> type:
    """The model class for one type of configuration, made once and kept here, where pickle finds it.

    Args:
        nsp: the one that predicts the next sentence too.

    Raises:
        ValueError: no model of that type is supported, or none with an NSP head.
    """
    native, family, head, name = find_native(config_class, nsp)
    built = globals().get(name)
    if built is None or built.family is not family:
        doc = f"{native.__name__} with the span-boundary objective; see SpanBertForPreTraining."
        members = {"native_class": native, "family": family, "head_shape": head}
        members["layer_shape"] = family.last_layer(native)
        members["forward"] = with_native_parameters(
            SpanBertForPreTraining.forward, native.forward, f"{name}.forward"
        )
        built = type(
            name, (SpanBertForPreTraining, native), {"__module__": __name__, "__doc__": doc, **members}
        )
        globals()[name] = built
    return built


def __getattr__(name: str) -> type:
    """Makes a concrete class on demand: a process that unpickles a model has not built one yet."""
    if name.endswith(("ForSpanPreTraining", "ForSpanSentencePreTraining")):
        found = config_of_class_named(name)
        if found is not None:
            return concrete_class(*found)
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}: no supported model type makes a class of that name; call "
            "register_family first where one was registered"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
