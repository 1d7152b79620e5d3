# SPDX-License-Identifier: Apache-2.0
"""What a family's encoder takes of its own (bbox, global_attention_mask, ...): Trainer keeps it, the model reads it."""

from __future__ import annotations

import inspect

import pytest
import torch
from families_samples import family_config
from tiny_models import INDICES, make_batch, one_thread, tiny_texts, tiny_tokenizer  # noqa: F401
from transformers import Trainer, TrainingArguments
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from spanbert_ext.masking.collator import DataCollatorForSpanMasking
from spanbert_ext.models.families import FAMILIES
from spanbert_ext.models.native_classes import supported_types
from spanbert_ext.models.pretraining import SpanBertForPreTraining, concrete_class

OWN_INPUTS = {
    "ernie": {"task_type_ids"},
    "flaubert": {"langs", "lengths", "cache"},
    "layoutlm": {"bbox"},
    "longformer": {"global_attention_mask"},
    "roc_bert": {"input_shape_ids", "input_pronunciation_ids"},
    "xlm": {"langs", "lengths", "cache"},
}
KINDS = [
    (name, nsp)
    for name in supported_types()
    for nsp in (False, True)[: 1 + (FAMILIES[name].nsp_head is not None)]
]


@pytest.mark.parametrize(("model_type", "nsp"), KINDS)
def test_forward_names_what_the_native_one_does(model_type, nsp):
    ours = concrete_class(CONFIG_MAPPING[model_type], nsp)
    found = inspect.signature(ours.forward).parameters
    native = inspect.signature(ours.native_class.forward).parameters.values()
    named = {p.name for p in native if p.kind is not p.VAR_KEYWORD}
    assert named - found.keys() == ({"next_sentence_label"} if nsp else set())
    assert OWN_INPUTS.get(model_type, set()) <= found.keys()
    assert [name for name in found if "label" in name] == ["labels"]  # else Trainer wants these to evaluate
    base = inspect.signature(SpanBertForPreTraining.forward).parameters
    assert [*found][: len(base) - 1] == [*base][:-1] and [*found][-1] == [*base][-1]
    added = [found[name] for name in found.keys() - base.keys()]
    assert all(p.kind is p.KEYWORD_ONLY for p in added)  # what the code takes, which is the same object
    assert ours.forward.__code__ is SpanBertForPreTraining.forward.__code__
    assert ours.forward.__kwdefaults__ == SpanBertForPreTraining.forward.__kwdefaults__
    assert ours.forward.__qualname__ == f"{ours.__name__}.forward"
    assert ours.forward.__doc__ == SpanBertForPreTraining.forward.__doc__


def layout_model() -> SpanBertForPreTraining:
    torch.manual_seed(0)
    return SpanBertForPreTraining(family_config("layoutlm"), position_dim=24).eval()


def boxes_of(length: int) -> list[list[int]]:
    return [[10 * i % 900, 20, 10 * i % 900 + 50, 60] for i in range(length)]


def layout_trainer(folder, model) -> Trainer:
    tokenizer = tiny_tokenizer()
    rows = [dict(tokenizer(text)) for text in tiny_texts(8)]
    for row in rows:
        row |= {"bbox": boxes_of(len(row["input_ids"])), "page": 3}
    arguments = TrainingArguments(str(folder), report_to="none", use_cpu=True, per_device_train_batch_size=4)
    return Trainer(model, arguments, data_collator=DataCollatorForSpanMasking(tokenizer), train_dataset=rows)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of modules that are called
@pytest.mark.parametrize("adapted", [False, True], ids=["plain", "LoRA"])
def test_trainer_keeps_boxes(adapted, tmp_path):
    model = plain = layout_model()
    if adapted:
        peft = pytest.importorskip("peft")
        model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"], modules_to_save=["sbo"]))
    batch = next(iter(layout_trainer(tmp_path, model).get_train_dataloader()))
    assert batch["bbox"].shape == (*batch["input_ids"].shape, 4) and batch["bbox"].any()
    assert "page" not in batch  # which no forward names
    boxes = batch.pop("bbox")
    with torch.no_grad():
        assert plain(**batch, bbox=boxes).loss != plain(**batch).loss


def test_boxes_in_one_graph():
    torch._dynamo.reset()
    model, batch = layout_model(), make_batch(4)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels", *INDICES)}
    inputs["bbox"] = torch.tensor(boxes_of(batch["input_ids"].shape[1])).expand(4, -1, -1).contiguous()
    with torch.no_grad():
        found = torch.compile(model, backend="eager", fullgraph=True)(**inputs).loss
        torch.testing.assert_close(found, model(**inputs).loss)
        del inputs["bbox"]
        assert found != model(**inputs).loss
    torch._dynamo.reset()
