# SPDX-License-Identifier: Apache-2.0
"""What spanbert-prepare says of what it made."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest

pytest.importorskip("datasets")

from preparations import command, stop_before_the_manifest

from spanbert_ext.pretrain.prepare.prepare import prepare
from spanbert_ext.pretrain.prepare.shards import DOCUMENT_BINS, SENTENCE_BINS, document_bin
from spanbert_ext.pretrain.prepare.summary import report_text
from spanbert_ext.pretrain.prepare_cli import main
from spanbert_ext.pretrain.rows.tokenizer import TokenizerError


@pytest.mark.usefixtures("draws")
def test_the_command_says_what_it_made(options, tmp_path, capsys):
    assert main(command(options(), "--phrases", "entities")) == 0
    said = capsys.readouterr().out
    assert "documents   29, of" in said and "unknown     " in said and "phrases" in said
    assert f"spanbert-pretrain --corpus {tmp_path / 'out'}" in said
    assert (tmp_path / "out" / "report.md").read_text() in said
    assert (tmp_path / "out" / "lengths.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["my prep", "-prep", "it's"])
def test_the_advised_command_names_the_folder_as_a_shell_reads_it(
    options, monkeypatch, tmp_path, capsys, name
):
    monkeypatch.chdir(tmp_path)
    given = [*command(options()), f"--output={name}"]
    assert main(given) == 0
    *_, train = capsys.readouterr().out.splitlines()
    words = shlex.split(train.removeprefix("Train on it: "))
    assert words == ["spanbert-pretrain", "--corpus", str(tmp_path / name)]
    (tmp_path / name / "report.md").unlink()  # called again, it tells what there is
    assert main(given) == 0
    assert capsys.readouterr().out == f"{train}\n"


def test_the_advised_removal_of_a_damaged_tokenizer(options, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    trained = options(tokenizer=None, vocab_size=600)
    trained.output = "-my prep"
    stop_before_the_manifest(monkeypatch, trained)
    (tmp_path / "-my prep" / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError) as error:
        prepare(trained)
    advised = str(error.value).partition("delete the folder (")[2].partition("), and the same")[0]
    assert shlex.split(advised) == ["rm", "-r", str(tmp_path / "-my prep" / "tokenizer")]


def test_short_documents_are_said_to_be_short(options, tmp_path, capsys):
    (tmp_path / "short.txt").write_text("\n\n".join(["A paragraph."] * 30))
    assert main(command(options(corpus=[str(tmp_path / "short.txt")]))) == 0
    assert "--document-separator" in capsys.readouterr().out


def said_of(documents: np.ndarray, sentences: np.ndarray) -> str:
    """The report of documents and sentences of these lengths."""
    counts = {"documents": len(documents), "sentences": len(sentences), "tokens": int(documents.sum())}
    counts |= {"unknown": 0, "candidates": 0, "text_bytes": 4 * counts["tokens"]}
    of_sentences = np.bincount(np.minimum(sentences, SENTENCE_BINS - 1), minlength=SENTENCE_BINS)
    of_documents = np.bincount(document_bin(documents), minlength=DOCUMENT_BINS)
    return report_text(counts, 1, of_sentences.tolist(), of_documents.tolist())


@pytest.mark.parametrize("scale", [1, 2, 5, 30, 700, 90_000])
def test_half_of_them_have_the_length_that_is_said(scale):
    for seed in range(20):
        draw = np.random.default_rng(seed)
        documents = 1 + draw.integers(0, 2 * scale, size=draw.integers(1, 40))
        sentences = np.minimum(documents, 255)
        of_documents, of_sentences = (
            int(x.replace(",", ""))
            for x in re.findall(r"half of them of ([\d,]+) or fewer", said_of(documents, sentences))
        )
        middle = (len(documents) - 1) // 2  # the lower median
        assert 2 * (documents <= of_documents).sum() >= len(documents)
        assert document_bin(np.array([of_documents])) == document_bin(np.sort(documents)[middle])
        assert document_bin(np.array([of_documents + 1])) > document_bin(np.array([of_documents]))
        assert of_sentences == np.sort(sentences)[middle]


def test_long_sentences_are_not_said_to_be_shorter():
    said = said_of(np.array([900, 1000, 3]), np.array([300, 400, 3]))
    assert "half of them of more than 255" in said and "half of them of 1,023 or fewer" in said


@pytest.mark.parametrize("length, short", [(254, True), (255, True), (256, False), (257, False)])
def test_a_document_of_half_a_block_is_not_short(length, short):
    assert ("shorter than half a block of 512" in said_of(np.array([length]), np.array([length]))) == short
