# SPDX-License-Identifier: Apache-2.0
"""One model in several threads: each call keeps its own rows."""

from __future__ import annotations

import copy
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny_models import encoder_inputs, gradients, make_batch, make_model, one_thread  # noqa: F401


@pytest.fixture
def many_switches():
    """Threads take turns a hundred times as often as usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 100)
    yield
    sys.setswitchinterval(interval)


def test_losses_and_logits_equal_those_of_one_thread(many_switches):
    model = make_model(evaluation_logits=False).double().eval()
    batches = [make_batch(seed=seed) for seed in range(4)]
    with torch.no_grad():
        losses = [model(**batch).loss for batch in batches]
        logits = [model(**encoder_inputs(batch)).logits for batch in batches]
    begin = threading.Barrier(8)

    def work(thread: int) -> int:
        begin.wait()
        wrong = 0
        with torch.no_grad():
            for step in range(30):
                i = (thread + step) % 4
                if thread % 2:
                    wrong += not torch.equal(model(**batches[i]).loss, losses[i])
                else:
                    wrong += not torch.equal(model(**encoder_inputs(batches[i])).logits, logits[i])
        return wrong

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(work, range(8))) == 0


def test_gradients_of_two_threads_add_up():
    model, batches = make_model().double(), [make_batch(seed=seed) for seed in range(2)]
    expected = copy.deepcopy(model)
    for batch in batches:
        expected(**batch).loss.backward()
    losses = list(ThreadPoolExecutor(2).map(lambda batch: model(**batch).loss, batches))
    sum(losses).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, gradients(expected)[name], rtol=1e-9, atol=1e-12)


def test_a_model_inside_another_ones_encoder():
    """As a teacher that runs within the forward of its student."""
    model, teacher, batch = make_model().double(), make_model(seed=1).double(), make_batch()
    expected, taught = model(**batch).loss, teacher(**batch).loss
    found = []
    forward = model.bert.encoder.layer[-1].attention.self.forward

    def with_teacher(*inputs, **options):
        found.append(teacher(**batch).loss)
        return forward(*inputs, **options)

    model.bert.encoder.layer[-1].attention.self.forward = with_teacher
    assert model(**batch).loss == expected and found == [taught]


def test_a_model_inside_its_own_encoder():
    model, batch = make_model(evaluation_logits=False).double().eval(), make_batch()
    expected, logits = model(**batch).loss, model(**encoder_inputs(batch)).logits
    found = []
    attention = model.bert.encoder.layer[-1].attention.self
    forward = attention.forward

    def again(*inputs, **options):
        attention.forward = forward
        found.append(model(**encoder_inputs(batch)).logits)
        return forward(*inputs, **options)

    attention.forward = again
    assert model(**batch).loss == expected and torch.equal(found[0], logits)
