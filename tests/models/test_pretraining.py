# SPDX-License-Identifier: Apache-2.0
"""The model: its loss and gradients against plain formulas, what Trainer sees of it."""

from __future__ import annotations

import inspect

import pytest
import torch
import transformers
from tiny_models import (  # noqa: F401
    INDICES,
    VOCABULARY,
    assert_close,
    encoder_inputs,
    gradients,
    make_batch,
    make_model,
    one_thread,
    tiny_config,
    tiny_tokenizer,
)
from torch.nn import functional as F
from transformers import BertForMaskedLM

from spanbert_ext.models import pretraining


def head_sums(model, batch: dict) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    """The two heads' summed losses and counts, row by row as the paper writes them."""
    x = model.bert(**encoder_inputs(batch))[0]
    mlm = F.cross_entropy(model.cls(x).flatten(0, 1), batch["labels"].flatten(), reduction="sum")
    sbo, count, head = x.new_zeros(()), 0, model.sbo
    for b in range(len(x)):
        for position, left, right in zip(*(batch[name][b].tolist() for name in INDICES), strict=True):
            if left < 0:
                continue
            h = torch.cat([x[b, left], x[b, right], head.position_embeddings.weight[position - left - 1]])
            y = head.norm2(F.gelu(head.dense2(head.norm1(F.gelu(head.dense1(h))))))
            scores = model.bert.embeddings.word_embeddings.weight @ y + head.bias
            sbo = sbo + F.cross_entropy(scores, batch["labels"][b, position])
            count += 1
    return mlm, sbo, int((batch["labels"] >= 0).sum()), count


class TestLoss:
    def test_loss_and_gradients_are_the_papers(self):
        model, batch = make_model(sbo_weight=0.7).double(), make_batch()
        output = model(**batch)
        output.loss.backward()
        fused = gradients(model)
        model.zero_grad()

        mlm, sbo, mlm_count, sbo_count = head_sums(model, batch)
        assert 0 < sbo_count < mlm_count
        loss = mlm / mlm_count + 0.7 * sbo / sbo_count
        loss.backward()
        torch.testing.assert_close(output.loss, loss, rtol=1e-10, atol=0)
        torch.testing.assert_close(output.mlm_loss, mlm / mlm_count, rtol=1e-10, atol=0)
        torch.testing.assert_close(output.sbo_loss, sbo / sbo_count, rtol=1e-10, atol=0)
        assert (output.mlm_count, output.sbo_count) == (mlm_count, sbo_count)
        assert output.row_statistics.sum(0)[[1, 4]].tolist() == [mlm_count, sbo_count]
        # T8: the tied matrix is embedding, MLM decoder and SBO decoder; its one gradient is the sum
        assert_close(fused, gradients(model), 1e-10)

    def test_tied_weights_have_one_gradient(self):
        model, batch = make_model(), make_batch()
        word = model.bert.embeddings.word_embeddings.weight
        assert model.get_output_embeddings().weight is word
        calls = []
        word.register_post_accumulate_grad_hook(lambda p: calls.append(p.grad.clone()))
        model(**batch).loss.backward()
        assert len(calls) == 1 and torch.equal(calls[0], word.grad)
        untouched = torch.ones(len(word), dtype=torch.bool)
        untouched[batch["input_ids"].unique()] = False
        assert word.grad[untouched].abs().sum() > 0  # from the decoders: softmax reaches every token

    def test_predictions_and_accuracies(self):
        model, batch = make_model().eval(), make_batch()
        output = model(**batch, return_logits=True)
        live = batch["masked_positions"] >= 0
        best = output.logits.argmax(-1).gather(1, batch["masked_positions"].clamp_min(0))
        assert torch.equal(output.mlm_prediction, best.where(live, -1))
        assert torch.equal(output.sbo_prediction >= 0, batch["left_boundary"] >= 0)
        targets = batch["labels"].gather(1, batch["masked_positions"].clamp_min(0))
        assert output.mlm_accuracy == pytest.approx((best == targets)[live].float().mean().item())

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_the_stock_collators_labels_give_the_native_loss(self, smoothing):
        """Labels without index tensors: every labelled position, MLM alone; a row may have none."""
        model = make_model(label_smoothing=smoothing).double()
        batch = make_batch()
        batch["labels"][2] = -100
        batch["labels"][:, 0] = 7  # unlike span masks, labels may sit anywhere
        stock = encoder_inputs(batch) | {"labels": batch["labels"]}
        output = model(**stock)
        output.loss.backward()
        ours = gradients(model)
        model.zero_grad()
        logits = model(**encoder_inputs(batch)).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), label_smoothing=smoothing)
        loss.backward()
        torch.testing.assert_close(output.loss, loss, rtol=1e-10, atol=0)
        assert_close(ours, gradients(model), 1e-10)
        assert output.sbo_loss is None and output.logits is None
        plain = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
        torch.testing.assert_close(
            model.eval()(**stock).loss, plain, rtol=1e-10, atol=0
        )  # smoothing only trains

    def test_masked_positions_alone_give_the_native_loss(self):
        model, batch = make_model().double(), make_batch()
        del batch["left_boundary"], batch["right_boundary"]
        output = model(**batch)
        output.loss.backward()
        ours = gradients(model)
        model.zero_grad()
        logits = model(**encoder_inputs(batch)).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
        loss.backward()
        torch.testing.assert_close(output.loss, loss, rtol=1e-10, atol=0)
        assert_close(ours, gradients(model), 1e-10)
        assert output.sbo_loss is None and not any(name.startswith("sbo") for name in ours)
        assert output.mlm_prediction.shape == batch["masked_positions"].shape

    def test_logits_are_the_native_ones(self):
        model, batch = make_model().eval(), make_batch()
        native = BertForMaskedLM(tiny_config()).eval()
        native.load_state_dict(
            {name: x for name, x in model.state_dict().items() if not name.startswith("sbo.")}
        )
        expected = native(**encoder_inputs(batch), output_hidden_states=True)
        output = model(**encoder_inputs(batch), output_hidden_states=True)
        assert output.loss is None and list(output) == ["logits", "hidden_states"]
        torch.testing.assert_close(output.logits, expected.logits)
        assert len(output.hidden_states) == 3
        asked = model(**batch, return_logits=True)
        torch.testing.assert_close(asked.logits, expected.logits)
        assert "logits" not in model(**batch, return_logits=False)
        embedded = model(
            inputs_embeds=model.get_input_embeddings()(batch["input_ids"]),
            attention_mask=batch["attention_mask"],
        )
        torch.testing.assert_close(embedded.logits, expected.logits)

    def test_fill_mask_pipeline(self):
        tokenizer = tiny_tokenizer()
        fill = transformers.pipeline("fill-mask", model=make_model().eval(), tokenizer=tokenizer)
        answers = fill("the small cat [MASK] a dog .")
        assert len(answers) == 5 and all(answer["token_str"] in VOCABULARY for answer in answers)

    def test_nothing_masked(self):
        model, batch = make_model(), make_batch()
        batch["labels"].fill_(-100)
        for name in INDICES:
            batch[name].fill_(-1)
        output = model(**batch)
        output.loss.backward()
        assert output.loss == 0 and output.mlm_count == 0
        assert all(
            torch.isfinite(p.grad).all() and not p.grad.any()
            for p in model.parameters()
            if p.grad is not None
        )
        stock = model(**encoder_inputs(batch), labels=batch["labels"])
        assert stock.loss == 0

    def test_gradient_checkpointing_changes_nothing(self):
        batch, plain = make_batch(), make_model().double()
        plain(**batch).loss.backward()
        model = make_model().double()
        model.gradient_checkpointing_enable()
        model(**batch).loss.backward()
        assert_close(gradients(model), gradients(plain), 1e-12)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_low_precision(self, dtype):
        batch, model = make_batch(), make_model()
        expected = model(**batch).loss.detach()
        with torch.autocast("cpu", dtype):
            output = model(**batch)
        output.loss.backward()
        assert output.loss.dtype == torch.float32
        torch.testing.assert_close(output.loss.detach(), expected, rtol=0.02, atol=0)
        assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in model.parameters())
        model = model.to(dtype)
        output = model(**batch)
        output.loss.backward()
        torch.testing.assert_close(output.loss.detach().float(), expected, rtol=0.02, atol=0)
        assert model.sbo.bias.grad.dtype == dtype
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())


class TestScaling:
    """T1: accumulated micro-batches give the gradient of the one large batch."""

    def accumulate(self, batch: dict, sizes: list[int], with_sbo_count: bool | None) -> dict:
        model = make_model().double()
        items = int((batch["labels"] >= 0).sum())
        sbo_items = int((batch["left_boundary"] >= 0).sum())
        start = 0
        for size in sizes:
            part = {name: x[start : start + size] for name, x in batch.items()}
            start += size
            counts = {"num_items_in_batch": torch.tensor(items), "num_sbo_items": sbo_items}
            if not with_sbo_count:
                del counts["num_sbo_items"]
            model(**part, **counts).loss.backward()
        assert start == len(batch["labels"])
        return gradients(model)

    def whole(self, batch: dict) -> dict:
        model = make_model().double()
        model(**batch).loss.backward()
        return gradients(model)

    def test_equal_counts(self):
        quarter = make_batch(4, row_bounds=False)
        batch = {name: torch.cat([x, x, x, x]) for name, x in quarter.items()}
        batch["input_ids"] = batch["input_ids"].clone()
        batch["input_ids"][4:8, 1] = 9  # the same counts, other texts
        assert_close(self.accumulate(batch, [4] * 4, with_sbo_count=False), self.whole(batch), 1e-10)
        assert_close(self.accumulate(batch, [4] * 4, with_sbo_count=True), self.whole(batch), 1e-10)

    def test_unequal_counts_with_both(self):
        batch = make_batch(16, row_bounds=False)
        assert_close(self.accumulate(batch, [7, 1, 3, 5], with_sbo_count=True), self.whole(batch), 1e-10)

    def test_with_the_mlm_count_alone_the_sbo_mean_takes_the_batchs_share(self):
        batch = make_batch(8, row_bounds=False)
        part = {name: x[:3] for name, x in batch.items()}
        model = make_model().double()
        for count in (torch.tensor(40), 40, torch.tensor([[40.0]])):  # the last: nn.DataParallel
            loss = model(**part, num_items_in_batch=count).loss
            mlm, sbo, mlm_count, sbo_count = head_sums(model, part)
            torch.testing.assert_close(
                loss, mlm / 40 + (mlm_count / 40) * sbo / sbo_count, rtol=1e-10, atol=0
            )


class TestSignature:
    def test_indices_without_labels_raise(self):
        batch = make_batch()
        del batch["labels"]
        with pytest.raises(ValueError, match=r"without labels.*label_smoothing_factor"):
            make_model()(**batch)

    @pytest.mark.parametrize(
        "names",
        [INDICES[1:], INDICES[:2], (INDICES[0], INDICES[2]), INDICES[1:2]],
    )
    def test_boundaries_come_as_a_pair_beside_masked_positions(self, names):
        batch = make_batch()
        for name in set(INDICES) - set(names):
            del batch[name]
        missing = ", ".join(name for name in INDICES if name not in names)
        with pytest.raises(ValueError, match=f"missing: {missing} "):
            make_model()(**batch)

    def test_only_labels_is_named_like_a_label(self):
        parameters = inspect.signature(pretraining.BertForSpanPreTraining.forward).parameters
        assert [name for name in parameters if "label" in name] == ["labels"]
        columns = ("sample_ids", "sample_epoch", "token_kinds", "special_tokens_mask")
        for name in (*columns, "max_rows", "max_read_rows", "all_text"):
            assert name in parameters
