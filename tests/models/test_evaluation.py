# SPDX-License-Identifier: Apache-2.0
"""What evaluation gives, and to whom: the native class's loss and logits, or statistics where those alone are read."""

from __future__ import annotations

import functools
import math
from types import FunctionType, SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import (  # noqa: F401
    VOCABULARY,
    encoder_inputs,
    full_batch,
    make_batch,
    make_model,
    one_thread,
    tiny_config,
    tiny_texts,
    tiny_tokenizer,
)
from transformers import BertForMaskedLM, EvalPrediction, Trainer, TrainingArguments

import spanbert_ext
import spanbert_ext as renamed_package
from spanbert_ext import DataCollatorForSpanMasking, span_metrics
from spanbert_ext.models.evaluation import reads_statistics
from spanbert_ext.models.options import resolve_options

NAMES = {"mlm_loss", "mlm_accuracy", "sbo_loss", "sbo_accuracy"}
ROWS = 11


def native_of(model) -> BertForMaskedLM:
    native = BertForMaskedLM(tiny_config())
    native.load_state_dict({name: x for name, x in model.state_dict().items() if not name.startswith("sbo.")})
    return native.train(model.training)


def plain(batch: dict) -> dict:
    """What the native class takes of a batch."""
    return encoder_inputs(batch) | {"labels": batch["labels"]}


class TestModes:
    def test_the_loss_and_logits_are_the_native_ones(self):
        model, batch = make_model().eval(), make_batch()
        expected = native_of(model)(**plain(batch))
        for given in (batch, plain(batch)):
            found = model(**given)
            assert list(found)[:2] == ["loss", "logits"] and "row_statistics" not in found
            torch.testing.assert_close(found.loss, expected.loss, rtol=1e-6, atol=0)
            torch.testing.assert_close(found.logits, expected.logits)
        beside = model(**batch)
        torch.testing.assert_close(beside.mlm_loss, beside.loss.detach())
        assert beside.sbo_loss > 0 and beside.sbo_count > 0

    def test_an_option_makes_the_loss_the_sum(self):
        model, batch = make_model(evaluation_loss="sum", sbo_weight=0.5).eval(), make_batch()
        found = model(**batch)
        torch.testing.assert_close(found.loss.detach(), found.mlm_loss + 0.5 * found.sbo_loss)
        assert model.config.span_pretraining["evaluation_loss"] == "sum"

    def test_counts_of_all_processes_weight_the_loss(self):
        model, batch = make_model().eval(), make_batch()
        found = model(**batch, num_items_in_batch=torch.tensor(40))
        torch.testing.assert_close(found.loss.detach(), found.mlm_loss * found.mlm_count / 40)

    @pytest.mark.parametrize("broken", [math.nan, math.inf])
    @pytest.mark.parametrize("items", [None, 40, torch.tensor(40)])
    def test_an_sbo_loss_that_is_no_number_is_not_in_it(self, items, broken):
        """No weight of 0 takes it away: 0 times NaN."""
        model, batch = make_model().eval(), make_batch()
        given = batch if items is None else batch | {"num_items_in_batch": items}
        expected = model(**given).loss.detach()
        with torch.no_grad():
            model.sbo.bias[7] = broken
        found = model(**given)
        assert not found.sbo_loss.isfinite()
        torch.testing.assert_close(found.loss.detach(), expected)
        whole = make_model(evaluation_loss="sum").eval()
        whole.load_state_dict(model.state_dict())
        assert not whole(**given).loss.isfinite()

    @pytest.mark.parametrize("option", [True, False])
    def test_options_settle_the_logits(self, option):
        batch = make_batch()
        found = make_model(evaluation_logits=option).eval()(**batch)
        assert ("logits" in found, "row_statistics" in found) == (option, not option)
        asked = make_model(evaluation_logits=option).eval()(**batch, return_logits=not option)
        assert ("logits" in asked, "row_statistics" in asked) == (not option, True)

    def test_training_gives_the_sum_and_no_logits(self):
        found = make_model()(**make_batch())
        assert "logits" not in found and "row_statistics" in found
        torch.testing.assert_close(found.loss.detach(), found.mlm_loss + found.sbo_loss)

    def test_a_compiled_model_gives_logits(self):
        model, batch = make_model().eval(), full_batch(row_bounds=False)
        expected = model(**batch)
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(**batch, return_dict=False), (expected.loss, expected.logits))

    @pytest.mark.parametrize(
        ("name", "value"),
        [("evaluation_loss", "mean"), ("evaluation_logits", "yes"), ("evaluation_logits", 1)],
    )
    def test_options_out_of_range(self, name, value):
        with pytest.raises(ValueError, match=f"{name} is {value!r}, expected"):
            resolve_options(None, {name: value})


class TestTuples:
    """`return_dict=False`: the native class's outputs in its order, and none of ours."""

    @pytest.mark.parametrize("hidden", [False, True])
    @pytest.mark.parametrize("by_config", [False, True])
    def test_as_the_native_class(self, hidden, by_config):
        model, batch = make_model().eval(), make_batch()
        native = native_of(model)
        options = {"output_hidden_states": hidden}
        if by_config:
            model.config.return_dict = native.config.return_dict = False
        else:
            options["return_dict"] = False
        for labels in ({}, {"labels": batch["labels"]}):
            given = encoder_inputs(batch) | options | labels
            found, expected = model(**given), native(**given)
            assert type(found) is tuple and len(found) == len(expected) == bool(labels) + 1 + hidden
            torch.testing.assert_close(found, expected)
        assert len(model(**batch, **options)) == 2 + hidden  # with the SBO

    def test_in_training_the_loss_comes_first(self):
        model, batch = make_model(), make_batch()
        (loss,) = model(**batch, return_dict=False)
        loss.backward()
        assert torch.equal(loss, model(**batch).loss)
        loss, logits = model(**batch, return_dict=False, return_logits=True)
        assert logits.shape == (*batch["labels"].shape, len(VOCABULARY))

    def test_by_number(self):
        model, batch = make_model().eval(), make_batch()
        output = model(**batch)
        assert output[0] is output.loss and output[1] is output.logits and len(output[:]) == 2


def rows_of_many_lengths() -> list[dict]:
    tokenizer = tiny_tokenizer()
    return [dict(tokenizer(text)) for text in tiny_texts(ROWS, words=(1, 40))]


def make_trainer(tmp_path, metrics=None, model=None, kind=Trainer, preprocess=None, **options) -> Trainer:
    defaults = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "per_device_eval_batch_size": 4}
    return kind(
        model or make_model(),
        TrainingArguments(str(tmp_path), **(defaults | options)),
        data_collator=DataCollatorForSpanMasking(tiny_tokenizer(), epoch=0),
        eval_dataset=rows_of_many_lengths(),
        compute_metrics=metrics,
        preprocess_logits_for_metrics=preprocess,
    )


def whole_batch(model=None):
    """The same evaluation as one batch."""
    model = (model or make_model()).eval()
    return model(**DataCollatorForSpanMasking(tiny_tokenizer(), epoch=0)(rows_of_many_lengths()))


def seen_by(model) -> list[list[str]]:
    """The names of the outputs, call by call."""
    names: list[list[str]] = []
    model.register_forward_hook(lambda module, inputs, output: names.append(list(output)))
    return names


def accuracy(evaluation: EvalPrediction) -> dict[str, float]:
    """As scripts for the native class have it."""
    predictions, labels = evaluation
    assert isinstance(predictions, np.ndarray)
    masked = labels != -100
    return {"accuracy": float((predictions.argmax(-1) == labels)[masked].mean())}


def with_perplexity(evaluation):
    metrics = span_metrics(evaluation)
    return {**metrics, "perplexity": np.exp(metrics["mlm_loss"])}


@functools.wraps(span_metrics)
def wrapper(*args, **kwargs):
    return dict(spanbert_ext.models.output.span_metrics(*args, **kwargs))


def closing_over(metrics):
    return lambda evaluation: {**metrics(evaluation)}


class Metrics:
    def __call__(self, evaluation):
        return [span_metrics(part) for part in [evaluation]][0]

    def method(self, evaluation):
        return spanbert_ext.span_metrics(evaluation)


def importing(evaluation):
    from spanbert_ext import span_metrics as renamed

    return renamed(evaluation)


def reads_logits(evaluation):
    return span_metrics(evaluation)


reads_logits.reads_row_statistics = False
STATISTICS = {
    "itself": span_metrics,
    "partial": functools.partial(span_metrics, compute_result=None),
    "wraps": wrapper,
    "function": with_perplexity,
    "closure": closing_over(span_metrics),
    "object": Metrics(),
    "method": Metrics().method,
    "import": importing,
    "lambda": lambda evaluation: span_metrics(evaluation),
    "module": lambda evaluation: renamed_package.span_metrics(evaluation),
}
others = SimpleNamespace(span_metrics=accuracy)


# in a module that has no span_metrics of ours
of_others = FunctionType((lambda evaluation: others.span_metrics(evaluation)).__code__, {"others": others})


class TestTrainer:
    def test_compute_metrics_gets_the_logits_as_an_array(self, tmp_path):
        found = make_trainer(tmp_path, accuracy).evaluate()
        expected = whole_batch()
        assert found["eval_accuracy"] == pytest.approx(expected.mlm_accuracy.item())
        assert "eval_sbo_loss" not in found

    def test_logits_may_be_preprocessed(self, tmp_path):
        def metrics(evaluation):
            assert evaluation.predictions.shape == evaluation.label_ids.shape
            masked = evaluation.label_ids != -100
            return {"accuracy": float((evaluation.predictions == evaluation.label_ids)[masked].mean())}

        trainer = make_trainer(tmp_path, metrics, preprocess=lambda logits, labels: logits.argmax(-1))
        assert trainer.evaluate()["eval_accuracy"] == pytest.approx(whole_batch().mlm_accuracy.item())

    @pytest.mark.parametrize("name", STATISTICS)
    def test_span_metrics_is_recognised(self, name):
        assert reads_statistics(STATISTICS[name])

    @pytest.mark.parametrize(
        "metrics", [accuracy, reads_logits, None, max, closing_over(accuracy), of_others]
    )
    def test_other_metrics_are_not(self, metrics):
        assert not reads_statistics(metrics)

    @pytest.mark.parametrize("name", ["itself", "function", "method"])
    def test_span_metrics_sees_statistics_alone(self, name, tmp_path):
        trainer = make_trainer(tmp_path, STATISTICS[name])
        names = seen_by(trainer.model)
        found, expected = trainer.evaluate(), whole_batch()
        assert len(names) == 3 and not any("logits" in output for output in names)
        for metric in NAMES:
            assert found[f"eval_{metric}"] == pytest.approx(expected[metric].item(), rel=1e-5)
        assert trainer.predict(trainer.eval_dataset).predictions.shape == (ROWS, 6)

    def test_predict_gives_logits_and_a_loss_alone_needs_none(self, tmp_path):
        trainer = make_trainer(tmp_path)
        names = seen_by(trainer.model)
        found = trainer.evaluate()
        assert found.keys() >= {"eval_loss"} and not any("logits" in output for output in names)
        names.clear()
        predictions = trainer.predict(trainer.eval_dataset).predictions
        longest = max(len(row["input_ids"]) for row in trainer.eval_dataset)
        assert predictions.shape == (ROWS, longest, len(VOCABULARY))
        assert all(output[:2] == ["loss", "logits"] for output in names)

    def test_a_loss_of_ones_own_may_read_the_logits(self, tmp_path):
        class Own(Trainer):
            def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
                outputs = model(**inputs)
                loss = outputs.loss + 0 * outputs.logits.sum()
                return (loss, outputs) if return_outputs else loss

        assert make_trainer(tmp_path, kind=Own).evaluate()["eval_loss"] > 0
        with pytest.warns(UserWarning, match="compute_loss or prediction_step is your own"):
            found = make_trainer(tmp_path, span_metrics, kind=Own).evaluate()
        assert found["eval_mlm_loss"] == pytest.approx(whole_batch().mlm_loss.item(), rel=1e-5)

    def test_span_metrics_behind_another_function_says_what_it_got(self, tmp_path):
        with pytest.warns(UserWarning, match="does not name span_metrics itself"):
            found = make_trainer(tmp_path, lambda evaluation: with_perplexity(evaluation)).evaluate()
        assert "eval_mlm_loss" in found and "eval_sbo_loss" not in found

    def test_tuples_of_the_configuration(self, tmp_path):
        model = make_model()
        model.config.return_dict = False
        found = make_trainer(tmp_path, accuracy, model).evaluate()
        assert found["eval_accuracy"] == pytest.approx(whole_batch().mlm_accuracy.item())
        trainer = make_trainer(tmp_path, span_metrics, model)
        with pytest.warns(UserWarning, match="span_metrics got logits.*evaluation_logits=False"):
            found = trainer.evaluate()
        assert found["eval_mlm_accuracy"] == pytest.approx(whole_batch().mlm_accuracy.item())
        assert "eval_sbo_loss" not in found


class TestBatchEvaluation:
    """`batch_eval_metrics=True`: nothing is kept but sums."""

    def test_the_same_numbers(self, tmp_path):
        whole = make_trainer(tmp_path, span_metrics).evaluate()
        for metrics in (span_metrics, wrapper):
            trainer = make_trainer(tmp_path, metrics, batch_eval_metrics=True)
            names = seen_by(trainer.model)
            for _ in range(2):  # nothing is left of the first
                found = trainer.evaluate()
                for name in NAMES:
                    assert found[f"eval_{name}"] == pytest.approx(whole[f"eval_{name}"], rel=1e-6)
            assert not any("logits" in output for output in names)

    def test_data_sets_of_one_evaluation_are_apart(self, tmp_path):
        trainer = make_trainer(tmp_path, span_metrics, batch_eval_metrics=True)
        rows = trainer.eval_dataset
        found = trainer.evaluate({"a": rows[:6], "b": rows[6:]})
        for name, part in (("a", rows[:6]), ("b", rows[6:])):
            assert found[f"eval_{name}_sbo_loss"] == pytest.approx(trainer.evaluate(part)["eval_sbo_loss"])

    def test_nothing_is_left_of_an_evaluation_that_was_aborted(self, tmp_path):
        trainer = make_trainer(tmp_path, span_metrics, batch_eval_metrics=True)
        expected = trainer.evaluate()
        calls = []

        def interrupt(module, inputs):
            calls.append(None)
            if len(calls) == 3:
                raise KeyboardInterrupt

        handle = trainer.model.register_forward_pre_hook(interrupt)
        for _ in range(2):  # with the traceback alive, and without
            calls.clear()
            with pytest.raises(KeyboardInterrupt) as caught:
                trainer.evaluate()
        handle.remove()
        found = trainer.evaluate()
        del caught
        assert {name: found[f"eval_{name}"] for name in NAMES} == {
            name: expected[f"eval_{name}"] for name in NAMES
        }

    def test_logits_batch_by_batch(self, tmp_path):
        model = make_model(evaluation_logits=True)
        found = make_trainer(tmp_path, span_metrics, model, batch_eval_metrics=True).evaluate()
        expected = whole_batch(model)
        assert found["eval_mlm_loss"] == pytest.approx(expected.mlm_loss.item(), rel=1e-5)
        assert found["eval_mlm_accuracy"] == pytest.approx(expected.mlm_accuracy.item())

    def test_outside_of_a_trainer(self):
        evaluation = EvalPrediction(np.ones((2, 6), np.float32), np.zeros((2, 3)))
        for compute_result in (True, False):
            with pytest.raises(ValueError, match="compute_result outside of a Trainer's evaluation"):
                span_metrics(evaluation, compute_result=compute_result)


class TestSpanMetrics:
    def test_means_are_weighted_by_tokens(self):
        rows = np.array([[2.0, 1, 1, 0, 0, 0], [3.0, 9, 0, 8.0, 4, 1]], dtype=np.float32)
        expected = {"mlm_loss": 0.5, "mlm_accuracy": 0.1, "sbo_loss": 2.0, "sbo_accuracy": 0.25}
        for predictions in (rows, (rows, None), [rows[:1], rows[1:]], torch.from_numpy(rows)):
            assert span_metrics(SimpleNamespace(predictions=predictions)) == pytest.approx(expected)
        assert set(span_metrics(SimpleNamespace(predictions=rows[:1]))) == {"mlm_loss", "mlm_accuracy"}
        assert span_metrics(SimpleNamespace(predictions=rows[:0])) == {}

    @pytest.mark.parametrize("options", [{}, {"eval_do_concat_batches": False}], ids=["joined", "listed"])
    @pytest.mark.parametrize("mode", ["option", "native"])
    def test_logits_give_the_mlms_numbers(self, mode, options, tmp_path):
        """As for a native model that is compared with; rows of different lengths."""
        model = make_model(evaluation_logits=True)
        native = native_of(model)
        trainer = make_trainer(tmp_path, span_metrics, model if mode == "option" else native, **options)
        found, expected = trainer.evaluate(), whole_batch(model)
        for name in ("mlm_loss", "mlm_accuracy"):
            assert found[f"eval_{name}"] == pytest.approx(expected[name].item(), rel=1e-5)
        assert "eval_sbo_loss" not in found

    @pytest.mark.parametrize(
        ("predictions", "labels", "message"),
        [
            (np.zeros((2, 7, 9)), None, r"logits of shape \(2, 7, 9\), but label_ids of shape \(\)"),
            (np.zeros((2, 7, 9)), np.zeros((2, 6), int), r"but label_ids of shape \(2, 6\)"),
            (np.zeros((2, 7)), None, r"row_statistics \[N, 6\] or logits .*found shape \(2, 7\)"),
            (np.zeros((2, 6), int), None, r"preprocess_logits_for_metrics"),
            ((), None, r"found shape \(0,\)"),
            (None, None, r"found shape \(\)"),
        ],
    )
    def test_other_predictions_are_refused(self, predictions, labels, message):
        with pytest.raises(ValueError, match=message):
            span_metrics(SimpleNamespace(predictions=predictions, label_ids=labels))
