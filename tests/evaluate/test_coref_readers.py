# SPDX-License-Identifier: Apache-2.0
"""CoNLL documents in their three dialects, and GAP."""

from __future__ import annotations

import io
import lzma
import tarfile
from pathlib import Path

import downstream_samples as samples
import pytest

from spanbert_ext.evaluate.data.conll import read_conll, without_singletons
from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.gap import read_gap


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_ontogum(tmp_path: Path) -> None:
    (document,) = read_conll(write(tmp_path / "GUM_bio_emperor.conll", samples.ONTOGUM))
    assert (document.name, document.genre) == ("GUM_bio_emperor", "bio")
    assert (
        document.words == "NORTON I of America saw himself and his dog there .".split()
    )  # not the empty word
    assert document.sentences == (tuple(document.words),)
    # "NORTON I of America" is in clusters 1 and 14, and stays in the larger; 14 is left without mentions.
    assert document.clusters == (((0, 3), (5, 5), (7, 7)), ((3, 3), (9, 9)), ((7, 8),))
    assert without_singletons(document).clusters == document.clusters[:2]


def test_litbank(tmp_path: Path) -> None:
    (document,) = read_conll(write(tmp_path / "345_dracula_brat.conll", samples.LITBANK))
    assert document.name == "345_dracula_brat" and document.genre == ""
    assert [len(sentence) for sentence in document.sentences] == [6, 5]
    assert document.words[5] == "_"
    assert document.clusters == (((0, 1), (6, 6)), ((3, 3),), ((6, 7),), ((9, 9),))


def test_conll_2012_has_parts_genres_and_any_number_of_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "abc_0001.v4_gold_conll", samples.CONLL_2012)
    first, second = read_conll(path)
    assert (first.name, second.name) == ("bn/abc/00/abc_0001", "bn/abc/00/abc_0001 part 1")
    assert first.group == second.group == "bn/abc/00/abc_0001"
    assert first.genre == "bn" and first.words == ["She", "agreed", "."]
    assert first.clusters == (((0, 0),),) and second.clusters == ()


@pytest.mark.parametrize(
    ("begin", "name"),
    [
        ("#begin document (bc/a (b)/c); part 007", "bc/a (b)/c part 7"),
        ("# begin document GUM_bio_emperor", "GUM_bio_emperor"),
        ("#begin document nw/wsj_0001; part 000 ", "nw/wsj_0001"),
        ("# begin document;", "x"),
        ("#begin document ()", "x"),
    ],
)
def test_names_stand_in_parentheses_or_alone(tmp_path: Path, begin: str, name: str) -> None:
    text = samples.ONTOGUM.replace("# begin document", begin, 1)
    text = text.replace("# end document", "#end document (x)")
    (document,) = read_conll(write(tmp_path / "x.conll", text))
    assert document.name == name and len(document.words) == 11


def test_documents_without_names_are_numbered(tmp_path: Path) -> None:
    documents = read_conll(write(tmp_path / "x.conll", samples.ONTOGUM * 3))
    assert [document.name for document in documents] == ["x", "x document 2", "x document 3"]
    assert documents[2].clusters == documents[0].clusters


def test_comments_are_no_words_and_words_may_hold_wide_blanks(tmp_path: Path) -> None:
    text = samples.CONLL_2012.replace("   She ", "   10\u00a0000\u3000m ")
    text = "# licence\n" + text
    text = text.replace(
        "bn/abc/00/abc_0001   0   1", "# text = a b c -\n# sent_id\t1\nbn/abc/00/abc_0001   0   1"
    )
    first, _ = read_conll(write(tmp_path / "x.conll", text))
    assert first.words == ["10\u00a0000\u3000m", "agreed", "."] and first.clusters == (((0, 0),),)


def test_folders_and_archives_are_read_whole(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "b.conll", samples.LITBANK)
    (folder / "a.conll.xz").write_bytes(lzma.compress(samples.ONTOGUM.encode()))
    write(folder / "LICENSE.txt", "not data")
    documents = read_conll(folder)
    assert [document.name for document in documents] == ["a", "345_dracula_brat"]
    (folder / ".hidden").mkdir()
    write(folder / ".hidden" / "b.conll", samples.LITBANK)
    with tarfile.open(tmp_path / "data.tar.xz", "w:xz") as archive:
        archive.add(folder, "./data")
    assert read_conll(tmp_path / "data.tar.xz") == documents


def test_an_archive_says_which_member_is_wrong(tmp_path: Path) -> None:
    content = b"# begin document\n0\tone\n# end document\n"
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        member = tarfile.TarInfo("data/x.conll")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match=r"data\.tar/data/x\.conll:2: has 2 columns"):
        read_conll(tmp_path / "data.tar")
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(DataError, match=r"empty\.tar: holds no file \*\.conll"):
        read_conll(tmp_path / "empty.tar")
    (tmp_path / "damaged.tar").write_bytes((tmp_path / "data.tar").read_bytes()[:100])
    with pytest.raises(DataError, match=r"damaged\.tar: cannot be unpacked"):
        read_conll(tmp_path / "damaged.tar")


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    """An archive whose regular members are ONTOGUM."""
    content = samples.ONTOGUM.encode()
    with tarfile.open(path, "w") as archive:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(content))
    return path


def test_an_archive_that_is_cut_or_damaged_loses_no_document_silently(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "x.tar", *(tarfile.TarInfo(f"{name}.conll") for name in "abc"))
    whole = path.read_bytes()
    assert [document.name for document in read_conll(path)] == ["a", "b", "c"]
    for cut in (0, 100, 512, 600, 1024, 1100, 1536, 2048, 2500, 3000, 3072, 3500):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"x\.tar: (cannot be unpacked|is damaged or cut)"):
            read_conll(path)
    second_header = 512 + 512  # after a header, and content of less than 512 bytes
    path.write_bytes(whole[:second_header] + b"?" + whole[second_header + 1 :])
    with pytest.raises(DataError, match=r"x\.tar: is damaged or cut: what follows its first 1024 bytes"):
        read_conll(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["a.conll", "b.conll", "/etc/passwd"])
def test_a_link_in_an_archive_is_no_document(tmp_path: Path, kind: bytes, target: str) -> None:
    link = tarfile.TarInfo("b.conll")
    link.type, link.linkname = kind, target
    with pytest.raises(DataError, match=rf"x\.tar/b\.conll: is a link to {target}; pack files themselves"):
        read_conll(tar_of(tmp_path / "x.tar", tarfile.TarInfo("a.conll"), link))
    link.name = "README"
    assert len(read_conll(tar_of(tmp_path / "x.tar", tarfile.TarInfo("a.conll"), link))) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(13)14)", "(13)", "x.conll:2: a mention of cluster 14 is opened and not closed"),
        ("(2(1)", "(1)", "x.conll:11: closes a mention of cluster 2 that is not open"),
        ("(2(1)", "(2(x)", r"x.conll:10: the last column is '\(2\(x\)'"),
        ("(2(1)", "2", "x.conll:10: the last column is '2'"),
        ("4\tsaw\t_", "4\tsaw", "x.conll:6: has 2 columns"),
        ("5\t\t_", "5\t\t(3)", "x.conll:7: the word is empty"),
        ("# end document\n", "", "x.conll:1: the document 'x' has no '#end document'"),
        ("# begin document\n", "", "x.conll:1: stands before any '#begin document'"),
        (
            "4\tsaw\t_",
            "# begin document",
            "x.conll:6: a document begins inside the one that begins in line 1",
        ),
        ("4\tsaw\t_", "# end document", "x.conll:7: stands before any"),
        ("# end document\n", "# end document\n" * 2, "x.conll:15: a document ends that has not begun"),
    ],
)
def test_wrong_documents_name_their_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in samples.ONTOGUM
    path = write(tmp_path / "x.conll", samples.ONTOGUM.replace(old, new))
    with pytest.raises(DataError, match=message):
        read_conll(path)


def test_documents_without_words_or_with_one_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.conll", samples.LITBANK * 2)
    with pytest.raises(DataError, match="x.conll:16: '345_dracula_brat' is the name of another document"):
        read_conll(path)
    with pytest.raises(DataError, match="x.conll:1: the document 'x' has no words"):
        read_conll(write(path, "# begin document\n# end document\n"))
    with pytest.raises(DataError, match="holds no document: '#begin document' is missing"):
        read_conll(write(path, "\n"))


def test_gap(tmp_path: Path) -> None:
    first, second, third = read_gap(write(tmp_path / "gap.tsv", samples.GAP))
    assert [example.label for example in (first, second, third)] == ["A", "B", "neither"]
    assert [example.gender for example in (first, second)] == ["feminine", "masculine"]
    for example in (first, second, third):
        for mention, start in (
            (example.pronoun, example.pronoun_start),
            (example.a, example.a_start),
            (example.b, example.b_start),
        ):
            assert example.text[start:].startswith(mention)
    assert third.url == "http://w/2"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\t31\t", "\t30\t", "gap.tsv:2: Pronoun is 'her', but at 30 stands ' he'"),
        ("\t8\tFALSE", "\t9\tFALSE", "gap.tsv:2: B is 'Pauline', but at 9 stands \"auline'\""),
        ("\t0\tTRUE", f"\t{'0' * 5000}\tTRUE", "gap.tsv:2: A-offset is '000"),
        ("\t0\tTRUE", "\tzero\tTRUE", "gap.tsv:2: A-offset is 'zero'"),
        ("\t8\tFALSE", "\t8\tTRUE", "gap.tsv:2: both names are right"),
        ("\t0\tTRUE", "\t0\tyes", "gap.tsv:2: A-coref is 'yes'"),
        ("\thttp://w/1", "", "gap.tsv:2: has 10 columns; expected 11"),
        ("d-2", "d-1", "gap.tsv:3: 'd-1' is the id of another example"),
        ("\tHis\t", "\tHi\t", "gap.tsv:3: the pronoun is 'Hi'"),
        ("Pronoun-offset", "Offset", "gap.tsv:1: the columns are"),
        (samples.GAP, samples.GAP_HEADER, "gap.tsv: holds no example"),
        (samples.GAP, "", "gap.tsv:1: the columns are ''"),
    ],
)
def test_wrong_gap_examples_name_their_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in samples.GAP
    with pytest.raises(DataError, match=message):
        read_gap(write(tmp_path / "gap.tsv", samples.GAP.replace(old, new)))
