# SPDX-License-Identifier: Apache-2.0
"""Pairs are made once and mapped; a damaged file is made again."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

pytest.importorskip("datasets")

from row_samples import token_documents

from spanbert_ext.pretrain.rows import pair_cache
from spanbert_ext.pretrain.rows.pair_cache import cached_pairs
from spanbert_ext.pretrain.rows.pairs import build_pairs

LENGTHS = [[4, 5, 6], [7, 8], [9, 3, 2]]


@pytest.fixture
def made(monkeypatch) -> list[int]:
    """Grows whenever pairs are made."""
    calls, make = [], pair_cache.made_pairs

    def counting(*args):
        calls.append(len(calls))
        yield from make(*args)

    monkeypatch.setattr(pair_cache, "made_pairs", counting)
    return calls


def test_pairs_are_made_once(tmp_path, made):
    documents, numbers = token_documents(LENGTHS), np.arange(3)
    expected = build_pairs(documents, numbers, 16, "google", 0.1, 4, 7)
    for _ in range(2):
        pairs = cached_pairs(tmp_path / "new", documents, numbers, 16, "google", 0.1, 4, 7)
        assert pairs.tolist() == expected.tolist() and len(pairs) > 10 and isinstance(pairs, np.memmap)
    assert len(made) == 1
    for other in ((16, "google", 0.1, 4, 8), (16, "spanbert", 0.1, 4, 7), (16, "google", 0.2, 4, 7)):
        cached_pairs(tmp_path / "new", documents, numbers, *other)
    cached_pairs(tmp_path / "new", documents, numbers[:2], 16, "google", 0.1, 4, 7)
    cached_pairs(tmp_path / "new", token_documents(LENGTHS[::-1]), numbers, 16, "google", 0.1, 4, 7)
    assert len(made) == 6 == len(list((tmp_path / "new").iterdir()))
    assert pickle.loads(pickle.dumps(pairs)).tolist() == expected.tolist()
    (tmp_path / "any").touch()  # others who share the cache may read the pairs as any file of ours
    assert {path.stat().st_mode for path in (tmp_path / "new").iterdir()} == {
        (tmp_path / "any").stat().st_mode
    }


def test_what_a_killed_process_left_is_removed(tmp_path):
    abandoned, growing = tmp_path / "pairs-1.a.part", tmp_path / "pairs-2.b.part"
    for path in (abandoned, growing):
        path.write_bytes(b"begun")
    os.utime(abandoned, (0, 0))
    cached_pairs(tmp_path, token_documents(LENGTHS), np.arange(3), 16, "google")
    assert growing.exists() and not abandoned.exists() and len([*tmp_path.iterdir()]) == 2


def test_a_damaged_file_is_made_again(tmp_path, made):
    documents, numbers = token_documents(LENGTHS), np.arange(3)
    args = (tmp_path, documents, numbers, 16, "google")
    expected = cached_pairs(*args).tolist()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:40], bytes(len(whole)), bytes([whole[0] ^ 1]) + whole[1:]):
        replacement = tmp_path / "damaged"
        replacement.write_bytes(damaged)
        os.replace(replacement, path)
        assert cached_pairs(*args).tolist() == expected
        assert path.read_bytes() == whole
    assert len(made) == 6 and list(tmp_path.iterdir()) == [path]


def test_no_pair_at_all(tmp_path):
    assert len(cached_pairs(tmp_path, token_documents([[]]), np.arange(1), 16, "google")) == 0


def test_nothing_is_left_behind_when_making_fails(tmp_path, monkeypatch):
    def failing(*args):
        yield build_pairs(token_documents(LENGTHS), np.arange(3), 16, "google")
        raise KeyboardInterrupt

    monkeypatch.setattr(pair_cache, "made_pairs", failing)
    with pytest.raises(KeyboardInterrupt):
        cached_pairs(tmp_path, token_documents(LENGTHS), np.arange(3), 16, "google")
    assert not list(tmp_path.iterdir())
