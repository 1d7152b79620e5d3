# SPDX-License-Identifier: Apache-2.0
"""Bounds and `all_text`, which spare the model a read from the GPU: where the collator adds them, what they change."""

from __future__ import annotations

import pytest
import torch
from tiny_models import (  # noqa: F401
    INDICES,
    assert_close,
    full_batch,
    gradients,
    make_batch,
    make_model,
    moved,
    one_thread,
    same,
    skewed_batch,
    tiny_tokenizer,
)
from torch._dynamo.testing import CompileCounterWithBackend

from spanbert_ext import DataCollatorForSpanMasking, SpanMasker
from spanbert_ext.masking.row_bounds import HostNumber, _changes, rounded_up, row_bounds
from spanbert_ext.models import read_rows
from spanbert_ext.models.read_rows import mark_read
from spanbert_ext.ops._common import integer

HINTS = ("max_rows", "max_read_rows", "all_text")


def hints(batch: dict) -> dict:
    return {name: batch[name] for name in HINTS if name in batch}


def tensors(batch: dict) -> dict[str, torch.Tensor]:
    return {name: x for name, x in batch.items() if name not in HINTS}


def spans_of(batch: dict) -> tuple[torch.Tensor, ...]:
    return tuple(batch[name] for name in INDICES)


class TestBounds:
    def test_multiples_of_256(self):
        assert [rounded_up(n) for n in (0, 1, 256, 257)] == [0, 256, 256, 512]

    def test_read_positions_by_hand(self):
        positions = (torch.tensor([[-1, 1], [2, -1]]), torch.tensor([[0], [5]]), torch.tensor([[6], [-9]]))
        assert mark_read(positions, 2, 6).nonzero().flatten().tolist() == [0, 1, 6, 8, 11]
        assert mark_read((torch.full((2, 0), -1),), 2, 3).nonzero().flatten().tolist() == [0, 3]

    def test_positions_of_a_boundary_by_hand(self):
        """Every row begins anew, also behind a row that ends with its first position."""
        boundary = torch.tensor([[5, 5, 7], [7, 7, -1], [-1, 7, 5], [5, -1, 5]])
        assert _changes(boundary.numpy()) == 2 + 1 + 2 + 2
        assert _changes(boundary.numpy()[:, 1:]) == 2 + 1 + 2 + 1  # not contiguous
        assert _changes(boundary[:, :0].numpy()) == _changes(boundary[:0].numpy()) == 0

    @pytest.mark.parametrize("live", [0, 3, 4, 5, 6, 7, 8])
    def test_where_they_spare_a_quarter(self, live):
        """128 rows of 8 entries: 1,024 targets at most; without boundaries 128 * 9 rows can be read."""
        positions = torch.full((128, 8), -1)
        positions[:, :live] = torch.arange(1, live + 1)
        bounds = row_bounds((positions,), 64)
        assert bounds.get("max_rows") == (
            live * 128 if live <= 6 and live % 2 == 0 else {3: 512, 5: 768}.get(live)
        )
        rows = rounded_up((live + 1) * 128)
        assert bounds.get("max_read_rows") == (rows if rows <= 0.75 * 128 * 9 else None)
        assert all(type(bound) is HostNumber for bound in bounds.values())

    def test_rows_that_could_not_be_fewer(self):
        assert row_bounds((torch.full((8, 3), -1),), 20) == {}  # 24 targets: less than the step
        every = torch.arange(64).expand(64, 64)
        assert row_bounds((every, every, every), 64) == {}
        few = row_bounds((torch.full((64, 64), -1),) * 3, 64)  # never more rows than positions
        assert few == {"max_rows": 0, "max_read_rows": 256}

    def test_read_rows_are_never_too_few_and_hardly_too_many(self):
        """Whatever the masks: several ratios, single tokens, and index tensors that no masker makes."""
        batches = [
            skewed_batch(),
            full_batch(96),
            full_batch(64, 60, ratio=0.05),
            full_batch(96, scheme="tokens"),
        ]
        cases = [(spans_of(batch), batch["labels"].shape[1]) for batch in batches]
        for seed in range(3):
            torch.manual_seed(seed)
            cases.append((tuple(torch.randint(-20, 60, (64, 8)) for _ in range(3)), 60))
        for positions, length in cases:
            bounds = row_bounds(positions, length)
            read = int(mark_read(positions, len(positions[0]), length).sum())
            assert read <= bounds.get("max_read_rows", read) <= 1.25 * read + 256
            masked = int((positions[0] >= 0).sum())
            assert bounds.get("max_rows", rounded_up(masked)) == rounded_up(masked)
        assert "max_read_rows" in row_bounds(*cases[0])


def test_a_compiled_call_of_an_operator_takes_it_as_an_int():
    counter = CompileCounterWithBackend("eager")
    zeros = torch.compile(lambda x, n: x.new_zeros(integer("n", n)), backend=counter, fullgraph=True)
    assert [len(zeros(torch.ones(1), HostNumber(n))) for n in (3, 5, 8)] == [3, 5, 8]
    assert counter.frame_count == 2  # the first is a constant of its graph
    torch._dynamo.reset()


class TestCollator:
    def test_what_a_batch_carries(self):
        assert hints(skewed_batch()) == {"max_rows": 256, "max_read_rows": 512, "all_text": False}
        assert hints(make_batch()) == {"all_text": False}  # small: a bound spares nothing
        assert hints(full_batch()) == {"all_text": True}
        # spans share their boundaries: 1,024 rows read of 96 * 19 that there could be
        assert hints(full_batch(96)) == {"max_read_rows": 1024, "all_text": True}

    def test_they_stand_behind_the_tensors(self):
        for batch in (skewed_batch(), full_batch(96)):
            names = list(batch)
            assert names[-len(hints(batch)) :] == list(hints(batch))
            assert all(type(x) is HostNumber for x in hints(batch).values())

    def test_tensors_alone(self):
        for make in (skewed_batch, full_batch):
            plain = make(row_bounds=False)
            assert hints(plain) == {} and same(plain, tensors(make()))

    def test_numpy(self):
        assert hints(skewed_batch(return_tensors="np")) == {
            "max_rows": 256,
            "max_read_rows": 512,
            "all_text": False,
        }
        assert hints(full_batch(return_tensors="np")) == {"all_text": True}

    @pytest.mark.parametrize("padded", ["by the collator", "by its mask", "by pad_to_multiple_of"])
    def test_padding_anywhere_is_not_all_text(self, padded):
        ids = full_batch()["input_ids"]
        rows = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
        collator = DataCollatorForSpanMasking(tiny_tokenizer())
        assert collator(rows)["all_text"] == 1
        if padded == "by the collator":
            rows[1] = {name: x[:-1] for name, x in rows[1].items()}
        elif padded == "by its mask":
            rows[1]["attention_mask"][-1] = 0
        else:
            collator.pad_to_multiple_of = 64
        assert collator(rows)["all_text"] == 0


class TestBoundsInForward:
    @pytest.fixture(params=["counted", "bounded"], autouse=True)
    def way(self, request, monkeypatch):
        if request.param == "bounded":
            monkeypatch.setattr(read_rows, "may_read_values", lambda x: False)
        return request.param

    @pytest.fixture(autouse=True)
    def _watch(self, rows_computed) -> None:
        self.rows_computed = rows_computed

    def computed(self, model, batch: dict) -> tuple[int, torch.Tensor, dict]:
        rows = self.rows_computed(model)
        output = model(**batch)
        output.loss.backward()
        found = gradients(model)
        model.zero_grad()
        return rows[0], output, found

    @pytest.mark.parametrize("make", [skewed_batch, lambda: full_batch(96)], ids=["skewed", "full"])
    def test_loss_and_gradients_stay(self, way, make):
        model, batch = make_model().double(), make()
        rows, output, found = self.computed(model, batch)
        most, expected, gradient = self.computed(model, tensors(batch))
        torch.testing.assert_close(output.loss, expected.loss, rtol=1e-12, atol=0)
        assert torch.equal(output.row_statistics[:, 1::3], expected.row_statistics[:, 1::3])
        assert_close(found, gradient, 1e-10)
        assert rows == most if way == "counted" else rows == batch["max_read_rows"] < most

    def test_the_bounds_of_a_whole_batch_do_for_part_of_it(self, way):
        """As in the replicas of nn.DataParallel."""
        model, batch = make_model().double(), skewed_batch()
        part = {name: x[:7] for name, x in tensors(batch).items()}
        rows, output, found = self.computed(model, {**part, **hints(batch)})
        most, expected, gradient = self.computed(model, part)
        assert rows == most and output.loss == expected.loss
        assert_close(found, gradient, 0)

    def test_too_small_a_bound_is_never_a_wrong_number(self, way):
        model, batch = make_model(), skewed_batch()
        read = int(mark_read(spans_of(batch), *batch["labels"].shape).sum())
        assert model(**tensors(batch), max_read_rows=read).loss.isfinite()
        if way == "counted":
            with pytest.raises(
                ValueError, match=f"max_read_rows is {read - 1}, but the heads read {read} rows"
            ):
                model(**tensors(batch), max_read_rows=read - 1)
        else:
            for bound in (read - 1, 1, 0):
                assert model(**tensors(batch), max_read_rows=bound).loss.isnan()
                with torch.autocast("cpu", torch.bfloat16):
                    assert model(**tensors(batch), max_read_rows=bound).loss.isnan()
        masked = int((batch["labels"] >= 0).sum())
        assert model(**tensors(batch), max_rows=masked).loss.isfinite()
        with pytest.raises(ValueError, match="max_rows"):  # the CPU's own operators count in either way
            model(**tensors(batch), max_rows=masked // 4)

    def test_bounds_that_are_none(self):
        model, batch = make_model(), make_batch()
        for name in ("max_rows", "max_read_rows"):
            for bad in (torch.tensor(256), 256.0, True):
                with pytest.raises(TypeError, match=f"{name} is a {type(bad).__name__}, expected an int"):
                    model(**batch, **{name: bad})
            with pytest.raises(ValueError, match=f"{name} is -1"):
                model(**batch, **{name: -1})

    def test_bounds_of_labels_alone_and_of_masked_positions_alone(self, way):
        model, batch = make_model().double(), skewed_batch()
        names = ("input_ids", "attention_mask", "token_type_ids", "labels")
        labelled = {name: batch[name] for name in names}
        rows, output, _ = self.computed(model, labelled)
        alone = {**labelled, "masked_positions": batch["masked_positions"]}
        bound = row_bounds((batch["masked_positions"],), batch["labels"].shape[1])
        positions_rows, expected, _ = self.computed(model, {**alone, **bound})
        torch.testing.assert_close(output.loss, expected.loss, rtol=1e-12, atol=0)
        assert rows == positions_rows < batch["labels"].numel() // 4
        given, output, _ = self.computed(model, {**labelled, "max_rows": 512, "max_read_rows": 1024})
        torch.testing.assert_close(output.loss, expected.loss, rtol=1e-12, atol=0)
        assert given == (rows if way == "counted" else 96 * 9)  # the caller's word; B * (K + 1) is less


class TestAllText:
    def masks_seen(self, model) -> list:
        seen = []
        model.bert.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs.get("attention_mask")), with_kwargs=True
        )
        return seen

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_no_mask_means_the_same_as_ones(self, attention):
        batch = full_batch()
        model = make_model().double()
        model.set_attn_implementation(attention)
        seen = self.masks_seen(model)
        output = model(**batch)
        output.loss.backward()
        found = gradients(model)
        model.zero_grad()
        expected = model(**tensors(batch))
        expected.loss.backward()
        assert seen[0] is None and seen[1] is batch["attention_mask"]
        torch.testing.assert_close(output.loss, expected.loss, rtol=1e-12, atol=0)
        assert_close(found, gradients(model), 1e-10)

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_a_padded_batchs_mask_is_ready(self, attention):
        """Exactly what transformers makes of it, where it takes one that is made."""
        batch = make_batch()
        model = make_model().double()
        model.set_attn_implementation(attention)
        seen, used = self.masks_seen(model), []
        layer = model.bert.encoder.layer[0]
        layer.register_forward_pre_hook(lambda module, args, kwargs: used.append(args[1]), with_kwargs=True)
        loss = model(**batch).loss
        assert loss == model(**tensors(batch)).loss
        assert torch.equal(*used) and used[0].stride() == used[1].stride()
        assert (seen[0] is batch["attention_mask"]) == (attention == "eager")
        assert seen[1] is batch["attention_mask"]
        pattern = torch.ones(8, 1, *[batch["labels"].shape[1]] * 2, dtype=torch.bool)  # of the caller's own
        model(**(batch | {"attention_mask": pattern}))
        assert seen[2] is pattern

    def test_the_option_says_it_of_every_batch(self):
        batch = full_batch(row_bounds=False)
        model = make_model(assume_all_text=True)
        seen = self.masks_seen(model)
        assert model(**batch).loss == make_model()(**batch).loss
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        assert seen == [None, None]

    def test_masks_made_in_forward(self):
        text = {"input_ids": full_batch()["input_ids"]}
        text["attention_mask"] = torch.ones_like(text["input_ids"])
        model = make_model().eval()
        model.set_masker(SpanMasker.from_tokenizer(tiny_tokenizer()))
        torch.testing.assert_close(model(**text, all_text=True).loss, model(**text).loss)

    def test_a_batch_that_is_padded_all_the_same(self, monkeypatch):
        batch = make_batch()
        row, position = (batch["attention_mask"] == 0).nonzero()[0].tolist()
        with pytest.raises(
            ValueError, match=rf"all_text is True, but attention_mask\[{row}, {position}\] is 0"
        ):
            make_model()(**(batch | {"all_text": True}))
        with pytest.raises(ValueError, match="option assume_all_text is True, but attention_mask"):
            make_model(assume_all_text=True)(**tensors(batch))
        packed = torch.ones(8, 1, 40, 40)  # an attention pattern of the caller's
        with pytest.raises(ValueError, match=r"shape \[8, 1, 40, 40\], expected \[B, L\]"):
            make_model()(**(full_batch() | {"attention_mask": packed}))
        with pytest.raises(TypeError, match="all_text is a Tensor, expected a bool or None"):
            make_model()(**(full_batch() | {"all_text": torch.tensor(True)}))
        on_meta = make_model().to("meta")  # where nothing can be read, nothing is
        assert on_meta(**(moved(batch, "meta") | {"all_text": True})).loss.is_meta
