# SPDX-License-Identifier: Apache-2.0
"""Models whose span-boundary head is not as initialised, tokenizers of each kind, and a plain forward of both heads."""

from __future__ import annotations

import pytest
import torch
from families_samples import family_config
from tiny_models import make_model, tiny_texts
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from spanbert_ext import FilledText, SpanBertForPreTraining

TEXT = "the old {2} seeed a big [MASK] ."


def trained(model: SpanBertForPreTraining, seed: int = 0) -> SpanBertForPreTraining:
    """With every weight moved, so that distributions are far from even and no head is as it was initialised."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model.eval()


def trained_model(**options) -> SpanBertForPreTraining:
    return trained(make_model(**options))


def family_model(model_type: str) -> SpanBertForPreTraining:
    torch.manual_seed(0)
    return trained(SpanBertForPreTraining(family_config(model_type), position_dim=24))


def _roles(mask: str) -> dict[str, str]:
    return {
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "mask_token": mask,
    }


def _trained_tokenizer(model, pre_tokenizer, decoder, trainer, mask: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    tokenizer.train_from_iterator(tiny_texts(60), trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_roles(mask))


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    specials = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _trained_tokenizer(models.BPE(), split, decoders.ByteLevel(), trainer, "<mask>")


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    specials = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    return _trained_tokenizer(
        models.Unigram(), pre_tokenizers.Metaspace(), decoders.Metaspace(), trainer, "<mask>"
    )


def plain_heads(model, row, span) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities [n, V] of both heads in a span of a row, in float64 by the formulas of the paper."""
    start, stop = span.start, span.stop
    with torch.no_grad():
        model = model.double().eval()
        inputs = {name: torch.tensor([numbers]) for name, numbers in row.inputs.items()}
        logits = model(**inputs, return_loss=False).logits[0, start:stop]
        x = model.base_model(**inputs)[0][0]  # [L, H]
        sbo, decoder = model.sbo, model.get_output_embeddings().weight
        rows = []
        for i in range(start, stop):
            h = torch.cat([x[start - 1], x[stop], sbo.position_embeddings.weight[i - start]])
            for dense, norm in ((sbo.dense1, sbo.norm1), (sbo.dense2, sbo.norm2)):
                h = dense.weight @ h + dense.bias
                h = h * 0.5 * (1 + torch.erf(h / 2**0.5))
                h = (h - h.mean()) / (h.var(unbiased=False) + norm.eps) ** 0.5 * norm.weight + norm.bias
            rows.append(decoder @ h + sbo.bias)
        return logits.softmax(-1), torch.stack(rows).softmax(-1)


def probabilities(guesses) -> dict[int, float]:
    return {guess.id: guess.probability for guess in guesses}


def close(found: FilledText, expected: FilledText) -> None:
    """Equal but for rounding."""
    assert found.pieces == expected.pieces and found.text == expected.text
    for a, b in zip(found.spans, expected.spans, strict=True):
        assert (a.start, a.stop, a.left, a.right, a.sbo_absent) == (
            b.start,
            b.stop,
            b.left,
            b.right,
            b.sbo_absent,
        )
        assert a.agreement == pytest.approx(b.agreement, abs=1e-5)
        for head in a.heads:
            for x, y in zip(a.heads[head].guesses, b.heads[head].guesses, strict=True):
                assert probabilities(x) == pytest.approx(probabilities(y), rel=1e-4)
            x, y = ([(f.ids, f.probability) for f in found.heads[head].fillings] for found in (a, b))
            assert [ids for ids, _ in x] == [ids for ids, _ in y]
            assert [p for _, p in x] == pytest.approx([p for _, p in y], rel=1e-4)
