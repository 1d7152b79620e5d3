# SPDX-License-Identifier: Apache-2.0
"""The model that a run starts from."""

from __future__ import annotations

import copy
import os
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    BertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from spanbert_ext.files.messages import reason
from spanbert_ext.files.paths import given_path
from spanbert_ext.models.positions import most_positions
from spanbert_ext.models.pretraining import SpanBertForPreTraining
from spanbert_ext.pretrain.rows.tokenizer import TokenizerError, load_tokenizer
from spanbert_ext.pretrain.settings.options import OptionError, Options
from spanbert_ext.pretrain.settings.sizes import MODELS


def check_model(options: Options) -> PreTrainedConfig:
    """The model's configuration, for `build_model`, after what can be said before the text is read, which may take
    hours: whether the model is there, is of a family that can be trained so, and has positions for --block-size.
    Raises `OptionError`."""
    if options.starts_fresh:
        config = BertConfig(
            **MODELS[options.model],
            hidden_dropout_prob=options.dropout,
            attention_probs_dropout_prob=options.dropout,
        )
    else:
        try:
            config = AutoConfig.from_pretrained(_checkpoint(options), trust_remote_code=False)
        except Exception as error:  # missing files, no network, unknown type
            raise OptionError(
                f"--model {options.model!r} is neither one of {', '.join(MODELS)} nor a loadable checkpoint:"
                f" {reason(error)}"
            ) from error
    try:
        SpanBertForPreTraining.made_for(type(config), bool(options.nsp))
    except ValueError as error:
        given = f"--model {options.model!r}{' with --nsp' * bool(options.nsp)}"
        raise OptionError(f"{given} cannot be trained: {error}") from error
    _check_token_types(options, config)
    _check_positions(options, config)
    return config


def build_model(
    options: Options, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, counts: np.ndarray
) -> PreTrainedModel:
    """A fresh BERT of a preset's size, or the checkpoint in a folder or on the hub, in float32 whatever its file holds:
    of float16 weights updates are rounded away or overflow. Raises `OptionError`.

    config: what `check_model` gave. counts: [V] training tokens by id; a fresh model's output biases start at their log
    frequencies, which saves the steps that would only learn these."""
    if options.starts_fresh:
        config = copy.deepcopy(config)
        config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
        model = SpanBertForPreTraining(config, nsp=options.nsp, impl=options.impl)
        log_frequency = np.log((counts + 0.5) / (counts + 0.5).sum())
        for bias in (model.get_output_embeddings().bias, model.sbo.bias):
            bias.data.copy_(torch.from_numpy(log_frequency))
        return model
    name = _checkpoint(options)
    check_ids(options, tokenizer)
    try:
        model = SpanBertForPreTraining.from_pretrained(
            name, config=config, nsp=options.nsp, impl=options.impl, dtype=torch.float32
        )
    except (OSError, ValueError) as error:  # no weights, a configuration that is refused
        raise OptionError(f"--model {options.model!r} cannot be loaded: {reason(error)}") from error
    return model


def _checkpoint(options: Options) -> str:
    path = given_path(options.model)
    return str(path) if os.path.isdir(path) else options.model


def check_ids(options: Options, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a tokenizer that gives tokens other ids than that of the checkpoint which `options` start from, or has
    more: the model would read other words, or none. Raises `OptionError`."""
    if options.starts_fresh:
        return
    name = _checkpoint(options)
    if tokenizer.name_or_path != name:
        _check_same_ids(options, name, tokenizer)
    vocabulary = AutoConfig.from_pretrained(name, trust_remote_code=False).vocab_size
    if len(tokenizer) > vocabulary:
        raise OptionError(
            f"--tokenizer has {len(tokenizer)} tokens but --model {options.model!r} has a vocabulary of"
            f" {vocabulary}"
        )


def _check_same_ids(options: Options, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    given_by = f"--tokenizer {options.tokenizer!r}" if options.tokenizer else "the tokenizer of --corpus"
    try:
        own = load_tokenizer(name).get_vocab()
    except TokenizerError:
        return  # a checkpoint without a tokenizer: nothing to compare
    given = tokenizer.get_vocab()
    differing = [(own[token], token) for token in own if given.get(token) != own[token]]
    if differing:
        index, token = min(differing)
        there = f"{given[token]}" if token in given else "none"
        raise OptionError(
            f"{given_by} has other ids than --model {options.model!r} was trained with:"
            f" {len(differing)} of {len(own)} tokens differ, {token!r} has id {index} there and {there} here:"
            " the model would read other words than are written"
        )


def _check_token_types(options: Options, config: Any) -> None:
    if options.rows != "blocks" and getattr(config, "type_vocab_size", None) == 1:
        raise OptionError(
            f"--rows is {options.rows} but --model {options.model!r} ({config.model_type}) has one token type, and a"
            " pair needs two, of which the second is that of its second half: choose --rows blocks"
        )


def _check_positions(options: Options, config: Any) -> None:
    positions = most_positions(config)
    if positions and options.block_size > positions:
        raise OptionError(
            f"--block-size is {options.block_size} but --model {options.model!r} has {positions} positions:"
            f" --block-size {positions} is the most that it can read"
        )
