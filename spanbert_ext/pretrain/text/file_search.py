# SPDX-License-Identifier: Apache-2.0
"""Where the files of a corpus are looked for: folders in depth and patterns, both without what is hidden."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from spanbert_ext.pretrain.text.corpus_names import form_of, literal_name, shown
from spanbert_ext.pretrain.text.text_files import CorpusError


def is_read(name: str) -> bool:
    """Whether a file of that name is read where its folder is named."""
    return form_of(name) not in (None, "markup")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is one of tools: .git, .ipynb_checkpoints, macOS's ._notes.txt."""
    return name.startswith(".") and name not in (".", "..")


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As `os.walk`, without what is hidden in `folder`. Raises `CorpusError` for a folder that cannot be entered: its
    text would be missing unnoticed."""
    for root, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield Path(root), folders, sorted(name for name in names if not is_hidden(name))


def _refuse(error: OSError) -> None:
    if os.path.basename(error.filename) == "lost+found":
        return  # root's own, at the top of every ext4 disk
    raise CorpusError(
        f"corpus folder {shown(error.filename)} cannot be searched: {error.strerror}; change its permissions, or name"
        " the files and folders that are to be read"
    ) from error


def hidden_below(folder: Path) -> list[Path]:
    """The files in `folder` that would be read if neither they nor a folder on the way to them were hidden."""
    found = []
    for root, _, names in os.walk(folder):  # one that cannot be entered has nothing to say
        hides = any(map(is_hidden, Path(root).relative_to(folder).parts))
        found += [Path(root, name) for name in names if is_read(name) and (hides or is_hidden(name))]
    return sorted(found)


def matches(pattern: str, *, hidden: bool = False) -> Iterator[Path]:
    """What a pattern of `corpus_names.given_pattern` matches, of names that are read. As in a shell, what is hidden is
    matched by a step that begins with a dot alone; `hidden`: only what is not matched for that reason.

    Raises `CorpusError` for a folder that the pattern leads through and that cannot be entered."""
    path = Path(pattern)
    root, steps = Path(path.anchor), list(path.parts[bool(path.anchor) :])
    while len(steps) > 1 and (name := literal_name(steps[0])) is not None:  # no folder before it is searched
        root, steps = root / name, steps[1:]
    for depth, step in enumerate(steps):
        if glob.has_magic(step):  # the folders before it are searched
            for folder in root.glob(os.path.join(*steps[:depth])) if depth else [root]:
                if folder.is_dir() and _is_open(folder.relative_to(root).parts, steps[:depth]):
                    _check_search(folder)
    for found in root.glob(os.path.join(*steps)):
        if not is_read(found.name) and not (form_of(found.name) and form_of(path.name)):
            continue
        if _is_open(found.relative_to(root).parts, steps) is not hidden:
            yield found


def _is_open(names: Sequence[str], steps: Sequence[str]) -> bool:
    """Whether the steps of a pattern match the steps of a path that it leads to with nothing hidden on the way but
    what they name by its dot."""
    if not steps:
        return not names
    if steps[0] == "**":
        passed = 0
        while not _is_open(names[passed:], steps[1:]):
            if passed == len(names) or is_hidden(names[passed]):
                return False
            passed += 1
        return True
    if not names or (is_hidden(names[0]) and not steps[0].startswith(".")):
        return False
    return fnmatchcase(names[0], steps[0]) and _is_open(names[1:], steps[1:])


def _check_search(folder: Path) -> None:
    try:
        with os.scandir(folder):
            pass
    except OSError as error:
        _refuse(error)
