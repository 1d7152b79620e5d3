# SPDX-License-Identifier: Apache-2.0
"""What the tests of filling share: a model, its tokenizer, and the folder that holds both."""

from __future__ import annotations

from pathlib import Path

import pytest
from fill_samples import trained_model
from tiny_models import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model():
    return trained_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    trained_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
