# SPDX-License-Identifier: Apache-2.0
"""Corpus, sentences, blocks and tokenizer of `spanbert-pretrain`; errors name what is wrong and where."""

from __future__ import annotations

import gc
import gzip
import itertools
import lzma
import os
import signal
import string
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("datasets")

from plain_sentences import plain_split
from row_samples import block_rows

from spanbert_ext import SpanMasker
from spanbert_ext.pretrain.rows.tokenizer import (
    SPECIAL_TOKENS,
    TokenizerError,
    load_tokenizer,
    train_tokenizer,
)
from spanbert_ext.pretrain.text.builtin_corpus import builtin_documents
from spanbert_ext.pretrain.text.corpus import (
    CorpusError,
    find_files,
    load_documents,
    passed_over,
    read_source,
)
from spanbert_ext.pretrain.text.sentences import split_sentences


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(lambda: iter(english(40)), 800)


@pytest.fixture(scope="module")
def builtin():
    """The whole built-in corpus, `(name, text)`, made once: it parses the standard library."""
    gc.disable()  # it would look at millions of syntax nodes, none of which is in a circle, again and again
    try:
        return list(builtin_documents())
    finally:
        gc.enable()


def english(count: int) -> list[str]:
    """The first documents of the built-in corpus, which is made lazily."""
    return [text for _, text in itertools.islice(builtin_documents(), count)]


def write(path: Path, text: str) -> Path:
    data = text.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)(path, "wb") as file:
        file.write(data)
    return path


def write_documents(folder: Path, count: int) -> list[str]:
    write(folder / "text.txt", "\n\n".join(f"Document number {i} says a thing or two." for i in range(count)))
    return [str(folder)]


def test_files_folders_and_globs_each_file_once(tmp_path):
    b, a = write(tmp_path / "b.txt", "b"), write(tmp_path / "sub" / "a.txt.gz", "a")
    write(tmp_path / "c.pdf", "c")
    assert find_files([str(b), str(tmp_path)]) == [b, a]
    assert find_files([str(b), os.path.relpath(b), f"{tmp_path}/sub/../b.txt"]) == [b]
    assert find_files([str(tmp_path / "**" / "*.gz")]) == [a]


def test_endings_in_capitals_and_text_of_other_endings(tmp_path):
    """A folder's README.md is about its text; Markdown is read where it is asked for."""
    names = ("A.TXT", "b.Text.GZ", "c.JSONL", "d.md", "e.RST", "f.csv", ".g.pdf", ".git/h.pdf")
    a, b, c, d, e, *_ = (write(tmp_path / name, '{"text": "x"}') for name in names)
    assert find_files([str(tmp_path)]) == find_files([str(tmp_path / "*")]) == [a, b, c]
    assert find_files([str(d), str(tmp_path / "*.RST")]) == [d, e]
    assert list(read_source(str(c))) == ["x"] and list(read_source(str(d))) == ['{"text": "x"}']
    (line,) = passed_over([str(tmp_path), str(a), "dataset:x"])
    assert line.startswith(
        f"Passed over in {tmp_path}: 3 files of other endings (d.md, e.RST, f.csv); a pattern"
    )
    assert line.endswith(f"--corpus '{tmp_path}/**/*.md'.")
    for path in (a, b, c, d, e):
        path.unlink()
    with pytest.raises(
        CorpusError, match=r"holds no file that ends in .*, but 1 file of other endings \(f.csv\)$"
    ):
        find_files([str(tmp_path)])


def test_files_that_are_passed_over_are_said(tmp_path, capsys):
    corpus, cache = write_documents(tmp_path / "text", 3), str(tmp_path / "cache")
    load_documents(corpus, cache)
    assert "Passed over" not in capsys.readouterr().out
    for number in range(5):
        write(tmp_path / "text" / f"{number}.docx", "")
    load_documents(corpus, cache)
    assert "5 files of other endings (0.docx, 1.docx, 2.docx, ...).\n" in capsys.readouterr().out


def test_symbolic_links_lead_to_no_file_twice(tmp_path):
    a = write(tmp_path / "text" / "a.txt", "a")
    for name in ("one", "two"):  # two loops: folders without end
        (tmp_path / "text" / name).symlink_to(tmp_path / "text")
    (tmp_path / "text" / "b.txt").symlink_to(a)
    found = find_files([str(tmp_path / "**" / "*.txt"), str(tmp_path)])
    assert found == [a]
    assert len(load_documents([str(tmp_path / "**" / "*.txt")], str(tmp_path / "cache"))) == 1


def test_a_relative_pattern(tmp_path, monkeypatch):
    write(tmp_path / "sub" / "a.txt", "a")
    monkeypatch.chdir(tmp_path)
    assert find_files(["*/*.txt"]) == find_files(["./**/*.txt"]) == [Path("sub/a.txt")]


@pytest.mark.parametrize("name", ["missing.txt", "missing/*.txt", "empty", "c.pdf"])
def test_what_is_no_text_file_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "c.pdf", "c")
    with pytest.raises(CorpusError, match=name.replace("*", r"\*").split("/")[-1]):
        find_files([str(tmp_path / name)])


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.xz"])
def test_wrong_encoding_names_file_byte_and_line(tmp_path, suffix):
    path = tmp_path / f"latin{suffix}"
    opener = {".txt": open, ".txt.gz": gzip.open, ".txt.xz": lzma.open}[suffix]
    with opener(path, "wb") as file:
        file.write("gut\n\nschön\nnaïve\n".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"latin.*0xf6.*offset 8, line 3"):
        load_documents([str(path)], str(tmp_path / "cache"))


def test_empty_corpus(tmp_path):
    write(tmp_path / "a.txt", "\n \n\t\n")
    with pytest.raises(CorpusError, match=r"empty.*a\.txt"):
        load_documents([str(tmp_path)], str(tmp_path / "cache"))


def test_a_changed_file_is_read_again(tmp_path):
    corpus, cache = write_documents(tmp_path / "text", 3), str(tmp_path / "cache")
    assert len(load_documents(corpus, cache)) == 3
    write_documents(tmp_path / "text", 5)
    assert len(load_documents(corpus, cache)) == 5


def test_builtin_corpus_is_english_and_always_the_same(builtin):
    documents = builtin
    assert [text for _, text in documents[:40]] == english(40)
    assert len({name for name, _ in documents}) == len(documents)
    assert len(documents) > 300 and sum(len(text) for _, text in documents) > 1_200_000
    everything = "\n".join(text for _, text in documents)
    assert ">>>" not in everything and "::=" not in everything
    paragraphs = everything.split("\n")
    assert len(paragraphs) == len(set(paragraphs))
    assert everything.count(" the ") > 10_000


def test_english_is_split_as_the_plain_rule_does(builtin):
    sentences = 0
    for _, text in builtin:
        assert split_sentences(text) == plain_split(text)
        sentences += len(split_sentences(text))
    assert sentences > 15_000


def test_blocks_stay_inside_one_document_and_lose_no_token(tmp_path, tokenizer):
    write(
        tmp_path / "a.txt",
        "\n\n".join(english(20)),
    )
    documents = load_documents([str(tmp_path / "a.txt")], str(tmp_path / "cache"))
    rows = [row["input_ids"].tolist() for row in block_rows(documents, tokenizer, 64)]
    assert all(3 <= len(row) <= 64 for row in rows)
    assert all(row[0] == tokenizer.cls_token_id and row[-1] == tokenizer.sep_token_id for row in rows)
    expected = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in documents["text"]]
    remaining = iter(rows)
    for document in expected:  # each document is exactly the next few blocks: none spans two
        got = []
        while len(got) < len(document):
            got += next(remaining)[1:-1]
        assert got == document
    assert next(remaining, None) is None


def test_sample_ids_follow_the_document_not_its_place(tmp_path, tokenizer):
    texts = english(6)
    named = []
    for name, part in (("a", texts), ("b", texts[:2:-1])):
        path = write(tmp_path / f"{name}.txt", "\n\n".join(part))
        rows = block_rows(load_documents([str(path)], str(tmp_path / "cache")), tokenizer, 64)
        named.append({row["sample_ids"]: tuple(row["input_ids"].tolist()) for row in rows})
        assert len(named[-1]) == len(rows)
    assert named[1].items() <= named[0].items()


def test_trained_tokenizer_is_cased_deterministic_and_loads_again(tmp_path, tokenizer):
    again = train_tokenizer(lambda: iter(english(40)), 800)
    assert again.get_vocab() == tokenizer.get_vocab() and len(again) == 800
    assert [tokenizer.convert_ids_to_tokens(i) for i in range(5)] == [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    ]
    assert tokenizer.tokenize("The") == ["The"] and tokenizer.tokenize("the") == ["the"]
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded("The statement, again.").input_ids == tokenizer("The statement, again.").input_ids


def test_a_trained_vocabulary_reserves_unused_ids(tokenizer):
    reserving = train_tokenizer(lambda: iter(english(40)), 900, unused_ids=100)
    unused = [f"[unused{number}]" for number in range(100)]
    assert reserving.convert_tokens_to_ids(unused) == list(range(5, 105)) and len(reserving) == 900
    text = "The statement [unused7], again."
    assert reserving.tokenize(text) == tokenizer.tokenize(text)  # the other 800 are as without
    pool = SpanMasker.from_tokenizer(reserving).random_ids.tolist()
    assert pool == [1, *range(105, 900)]  # [UNK], and what is neither special nor reserved
    with pytest.raises(TokenizerError, match="--vocab-size is 100, but special tokens, 100 unused ids"):
        train_tokenizer(lambda: iter(english(1)), 100, unused_ids=100)


def test_tokenizer_without_a_mask_token(tmp_path, tokenizer):
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    ).save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match="no mask token"):
        load_tokenizer(str(tmp_path))


def test_tokenizer_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(TokenizerError, match=tmp_path.name):
        load_tokenizer(str(tmp_path))


def test_vocabulary_smaller_than_the_alphabet():
    with pytest.raises(TokenizerError, match="--vocab-size is 10"):
        train_tokenizer(lambda: iter(["a quick brown fox"]), 10)


def test_training_a_vocabulary_answers_signals():
    """Text without end: only what the signal raises ends it, and afterwards no more text is read."""
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"sentence number {read}"

    class Asked(BaseException):
        pass

    def handle(number, frame):
        raise Asked

    previous = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Asked):
            train_tokenizer(endless, 300)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    before = read
    time.sleep(0.05)
    assert read == before > 0


def test_an_error_of_the_text_is_the_vocabularys():
    def broken() -> Iterator[str]:
        yield "one sentence"
        raise CorpusError("notes.txt is damaged")

    with pytest.raises(CorpusError, match="notes.txt is damaged"):
        train_tokenizer(broken, 300)


def test_a_cased_vocabulary_without_settings_is_not_read_in_lower_case(tmp_path):
    """As the published SpanBERT folders have it: transformers would lower all text, and no word has a capital then."""
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    pieces = [*SPECIAL_TOKENS, "[unused0]", *string.ascii_lowercase, *string.ascii_uppercase]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    with pytest.raises(TokenizerError, match=r'lower case of all text, and 50% .*"do_lower_case": false'):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_tokenizer(str(tmp_path)).tokenize("A b") == ["A", "b"]
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "vocab.txt").write_text("\n".join(pieces[:-26]) + "\n")
    assert load_tokenizer(str(tmp_path)).tokenize("A b") == ["a", "b"]
