"""Corpus, sentences, blocks and tokenizer of `spanbert-pretrain`; errors name what is wrong and where."""

from __future__ import annotations

import gzip
import itertools
import lzma
from pathlib import Path

import pytest

pytest.importorskip("datasets")

from spanbert_ext.pretrain.blocks import build_blocks, pack_sentences, split_sentences
from spanbert_ext.pretrain.builtin_corpus import builtin_documents
from spanbert_ext.pretrain.corpus import (
    CorpusError,
    find_files,
    load_documents,
    read_documents,
    split_documents,
)
from spanbert_ext.pretrain.tokenizer import TokenizerError, load_tokenizer, train_tokenizer

TEXT = "One line.\nAnother line.\n\n \t\nSecond document. It goes on.\r\nStill it.\n\n\n\nThird"
DOCUMENTS = ["One line.\nAnother line.", "Second document. It goes on.\nStill it.", "Third"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(lambda: iter(english(40)), 800)


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


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.xz"])
def test_blank_line_ends_a_document(tmp_path, name):
    assert list(read_documents(write(tmp_path / name, TEXT))) == DOCUMENTS


def test_byte_order_mark_is_no_text(tmp_path):
    assert list(read_documents(write(tmp_path / "a.txt", "\ufeffFirst"))) == ["First"]


def test_files_folders_and_globs_each_file_once(tmp_path):
    b, a = write(tmp_path / "b.txt", "b"), write(tmp_path / "sub" / "a.txt.gz", "a")
    write(tmp_path / "c.md", "c")
    assert find_files([str(b), str(tmp_path)]) == [b, a]
    assert find_files([str(tmp_path / "**" / "*.gz")]) == [a]


@pytest.mark.parametrize("name", ["missing.txt", "missing/*.txt", "empty", "c.md"])
def test_what_is_no_text_file_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "c.md", "c")
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


def test_utf16_and_damaged_archives_are_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes("text".encode("utf-16-le"))
    with pytest.raises(CorpusError, match=r"a\.txt.*NUL byte at byte offset 1, line 1"):
        list(read_documents(tmp_path / "a.txt"))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(bytes(range(65, 91)) * 9)[:30])
    with pytest.raises(CorpusError, match=r"b\.txt\.gz"):
        list(read_documents(tmp_path / "b.txt.gz"))


def test_empty_corpus(tmp_path):
    write(tmp_path / "a.txt", "\n \n\t\n")
    with pytest.raises(CorpusError, match=r"empty.*a\.txt"):
        load_documents([str(tmp_path)], str(tmp_path / "cache"))


def test_a_changed_file_is_read_again(tmp_path):
    corpus, cache = write_documents(tmp_path / "text", 3), str(tmp_path / "cache")
    assert len(load_documents(corpus, cache)) == 3
    write_documents(tmp_path / "text", 5)
    assert len(load_documents(corpus, cache)) == 5


def test_split_is_by_document_and_ignores_order_and_duplicates(tmp_path):
    lines = [f"Document {i} is here." for i in range(40)]
    write(tmp_path / "1" / "a.txt", "\n\n".join(lines))
    write(tmp_path / "2" / "a.txt", "\n\n".join(reversed(lines + lines)))
    held_out = []
    for folder in "12":
        documents = load_documents([str(tmp_path / folder)], str(tmp_path / "cache"))
        train, held = split_documents(documents, 0.2)
        assert len(train) + len(held) == len(documents)
        assert not set(train["text"]) & set(held["text"])
        held_out.append(set(held["text"]))
    assert len(held_out[0]) == 8 and held_out[0] == held_out[1]


def test_one_document_cannot_be_split(tmp_path):
    documents = load_documents([str(write(tmp_path / "a.txt", "Alone.\n\nAlone."))], str(tmp_path / "cache"))
    with pytest.raises(CorpusError, match=r"2 document\(s\), 1 of them different"):
        split_documents(documents, 0.1)


def test_builtin_corpus_is_english_and_always_the_same():
    documents = list(builtin_documents())
    assert [text for _, text in documents[:40]] == english(40)
    assert len({name for name, _ in documents}) == len(documents)
    assert len(documents) > 300 and sum(len(text) for _, text in documents) > 1_200_000
    everything = "\n".join(text for _, text in documents)
    assert ">>>" not in everything and "::=" not in everything
    paragraphs = everything.split("\n")
    assert len(paragraphs) == len(set(paragraphs))
    assert everything.count(" the ") > 10_000


@pytest.mark.parametrize(
    "text, expected",
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Line one\nline two. And more.", ["Line one", "line two.", "And more."]),
        ('He said "No." She left (early.) End.', ['He said "No."', "She left (early.)", "End."]),
        ("Dr. Who met J. R. Jones, e.g. Tuesday.", ["Dr. Who met J. R. Jones, e.g. Tuesday."]),
        ("It costs 3.5 dollars. 12 were sold.", ["It costs 3.5 dollars.", "12 were sold."]),
        ("no end. lower case goes on", ["no end. lower case goes on"]),
        ("\u4eca\u65e5\u3002\u660e\u65e5\u3002", ["\u4eca\u65e5\u3002", "\u660e\u65e5\u3002"]),
    ],
)  # fmt: skip
def test_sentences(text, expected):
    assert split_sentences(text) == expected


def test_blocks_hold_whole_sentences_and_every_token_once():
    sentences = [[1] * 4, [2] * 5, [3] * 2, [4] * 23, [5] * 3, [6] * 10, [7]]
    blocks = list(pack_sentences(sentences, 10))
    assert blocks == [
        [1] * 4 + [2] * 5,
        [3] * 2,
        [4] * 10,  # longer than a block: cut, not dropped
        [4] * 10,
        [4] * 3 + [5] * 3,
        [6] * 10,
        [7],
    ]


def test_blocks_stay_inside_one_document_and_lose_no_token(tmp_path, tokenizer):
    write(
        tmp_path / "a.txt",
        "\n\n".join(english(20)),
    )
    documents = load_documents([str(tmp_path / "a.txt")], str(tmp_path / "cache"))
    blocks = build_blocks(documents, tokenizer, 64)
    rows = blocks["input_ids"]
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
    assert len(set(blocks["sample_ids"])) == len(blocks)


def test_sample_ids_follow_the_document_not_its_place(tmp_path, tokenizer):
    texts = english(6)
    named = []
    for name, part in (("a", texts), ("b", texts[:2:-1])):
        path = write(tmp_path / f"{name}.txt", "\n\n".join(part))
        blocks = build_blocks(load_documents([str(path)], str(tmp_path / "cache")), tokenizer, 64)
        named.append(
            {i: tuple(row) for i, row in zip(blocks["sample_ids"], blocks["input_ids"], strict=True)}
        )
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
