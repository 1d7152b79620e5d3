# SPDX-License-Identifier: Apache-2.0
"""A file of torch.save, read without running anything that stands in it."""

from __future__ import annotations

import argparse
import io
import pickle
import pickletools
import re
import threading
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from spanbert_ext.files.messages import reason

_GZIP, _ZIP, _PICKLE = b"\x1f\x8b", b"PK\x03\x04", b"\x80"
_TAR = (257, b"ustar")  # where its mark stands
_PICKLES_OF_OLD_FORMAT = 5  # mark, version, byte order, the object, its storages' keys; numbers follow
_LONGEST_PICKLE = 1 << 28  # bytes that are searched for names, when a file is refused


class CheckpointError(ValueError):
    """A checkpoint cannot be used as it is; the message names the file, and the key or option, and what is wrong."""


class Attributes:
    """Stands for an object of fairseq's own classes: its attributes, none of its code."""


# The code that published SpanBERT keeps a configuration in the arguments of a run, and meters beside its optimizer.
_OF_FAIRSEQ = (
    "fairseq.models.pair_bert.BertConfig",
    "fairseq.models.hf_bert.BertConfig",
    "fairseq.meters.AverageMeter",
    "fairseq.meters.TimeMeter",
    "fairseq.meters.StopwatchMeter",
)
_ALLOWED: list[Any] = [argparse.Namespace, *((Attributes, name) for name in _OF_FAIRSEQ)]
_PLAIN = re.compile(  # what torch allows a file of weights by itself
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|bytearray|complex)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2|torch\.serialization\._get_layout"
    r"|torch\.(cuda\.)?\w+(Storage|Tensor)|torch\.storage\.\w+Storage|torch\.(Tensor|Size|device|per_\w+|[a-z]+\d+\w*)"
    r"|torch\.nn\.parameter\.Parameter"
)
_LOCK = threading.Lock()  # torch's list of allowed names is one for all threads


def read_checkpoint_file(path: Path) -> Any:
    """What torch.save, or safetensors, has written into a file, on the CPU.

    Tensors, dictionaries, lists, numbers and strings; `argparse.Namespace`; `Attributes` in the place of objects of
    fairseq. A file that calls for any other class or function is refused by that name: nothing of it is looked up or
    called.

    Raises:
        CheckpointError: there is no such file, it is not one of these, it is cut off, or it is refused.
    """
    beginning = _beginning(path)
    if beginning[8:9] == b"{" and int.from_bytes(beginning[:8], "little") < 1 << 32:
        return _read_safetensors(path)
    zipped = beginning.startswith(_ZIP)
    if not zipped and not beginning.startswith(_PICKLE):
        _refuse(
            path, _names_of_unmarked_pickles(path)
        )  # of the first two formats of pickles, which have no mark
        raise CheckpointError(
            f"{path} is no file of torch.save: it begins with {beginning[:16]!r}{_advice(beginning)}"
        )
    if zipped:
        _check_archive(path)
    try:
        return _load(path, zipped)
    except pickle.UnpicklingError as error:
        _refuse(path, _refused_names(path, zipped, error))
        raise CheckpointError(f"{path} is damaged, or is no file of torch.save: {_short(error)}") from error
    except MemoryError:
        raise
    except Exception as error:  # torch says in many ways that a file is not what it should be
        raise CheckpointError(f"{path} cannot be read: it is cut off or damaged ({_short(error)})") from error


def _beginning(path: Path) -> bytes:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; expected a file of torch.save")
    try:
        with path.open("rb") as file:
            beginning = file.read(512)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if not beginning:
        raise CheckpointError(f"{path} is empty")
    return beginning


def _advice(beginning: bytes) -> str:
    place, mark = _TAR
    if beginning.startswith(_GZIP) or beginning[place : place + len(mark)] == mark:
        return ", an archive's mark: unpack it first (tar -xf) and give the file that is in it"
    if beginning.startswith(b"version https://git-lfs"):
        return ": a pointer of Git LFS, whose file was not fetched (git lfs pull)"
    if beginning.lstrip()[:1] == b"<":
        return ": a page, perhaps what a download got in the place of the file"
    return ""


def _check_archive(path: Path) -> None:
    """Refuses what torch would read as something else: it maps a compressed tensor's bytes as if they were numbers."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # torch says what is wrong
    names = {member.filename.rpartition("/")[2] for member in members}
    if "data.pkl" not in names:
        raise CheckpointError(
            f"{path} is an archive, but none of torch.save (it has no data.pkl): unpack it first (unzip) and give the"
            " file or the folder that is in it"
        )
    if "constants.pkl" in names:
        raise CheckpointError(f"{path} is a TorchScript program, expected what torch.save writes of tensors")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                f"{path}: {member.filename} in it is compressed, which torch.save never does: the file was packed"
                " again. Load it and save it with torch.save"
            )


def _load(path: Path, zipped: bool) -> Any:
    with _LOCK:
        known = torch.serialization.get_safe_globals()  # the process's own stay
        with (
            torch.serialization.safe_globals([x for x in _ALLOWED if x not in known]),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # what cannot be read is an error
            # mapped: an optimizer's state, twice the weights, is then never read
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: it is cut off or damaged ({_short(error)})") from error


def _refuse(path: Path, names: list[str]) -> None:
    if names:
        said = [f"{name} (os.{name[6:]})" if name.startswith("posix.") else name for name in names]
        raise CheckpointError(
            f"{path} is refused: it calls for {', '.join(said)}, and a checkpoint needs nothing but tensors and "
            "plain values. Nothing in it was run"
        ) from None


def _short(error: BaseException) -> str:
    """The sentence that says what is wrong, without torch's advice to load such a file nevertheless."""
    text = str(error)
    for mark in ("WeightsUnpickler error:", "Weights only load failed."):
        text = text.rpartition(mark)[2]
    text = re.split(r"Check the documentation|In PyTorch 2\.6", text)[0]
    return reason(ValueError(text.strip().split("\n")[0])) if text.strip() else reason(error)


def _refused_names(path: Path, zipped: bool, error: BaseException) -> list[str]:
    """The classes and functions that a refused file calls for, in their order, by their names alone."""
    found: dict[str, None] = {}
    try:
        for pickled in _pickles(path, zipped):
            for name in _names(pickled):
                if not _is_allowed(name):
                    found[name] = None
    except Exception:  # the search is for the message alone; what it has found until here stands
        pass
    said = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", str(error))
    if said and not any(name.endswith(said[1]) for name in found):
        found[said[1]] = None
    return list(found)


def _is_allowed(name: str) -> bool:
    return name in _OF_FAIRSEQ or name == "argparse.Namespace" or _PLAIN.fullmatch(name) is not None


def _names_of_unmarked_pickles(path: Path) -> list[str]:
    """What a file that begins with pickles of the first two formats calls for; in other content there is nothing."""
    found: list[str] = []
    try:
        for pickled in _pickles(path, zipped=False):
            found += [name for name in _names(pickled) if not _is_allowed(name)]
    except Exception:  # what follows is no instruction of a pickle
        pass
    return list(dict.fromkeys(found))


def _pickles(path: Path, zipped: bool) -> Iterator[IO[bytes]]:
    """The pickles of a file, each as a stream that stands at its beginning."""
    if zipped:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".pkl"):
                    with archive.open(name) as member:
                        yield io.BytesIO(member.read(_LONGEST_PICKLE))
        return
    with path.open("rb") as file:
        for _ in range(_PICKLES_OF_OLD_FORMAT):
            yield file


def _names(pickled: IO[bytes]) -> Iterator[str]:
    """The names that one pickle looks up, read off its instructions. None is carried out."""
    strings: list[str] = []  # as they are pushed; a name is the last two
    memo: dict[int, str | None] = {}
    last: str | None = None  # what the instruction before pushed, if that is a string
    for opcode, argument, _ in pickletools.genops(pickled):
        pushed = None
        if opcode.name in ("GLOBAL", "INST"):
            yield _present_name(*argument.split(" ", 1))
        elif opcode.name == "STACK_GLOBAL":
            yield _present_name(*([""] * 2 + strings)[-2:])
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = pushed = last
        elif "PUT" in opcode.name:
            memo[argument] = pushed = last
        elif "GET" in opcode.name and memo.get(argument) is not None:
            pushed = memo[argument]
            strings.append(pushed)
        elif isinstance(argument, str):
            pushed = argument
            strings.append(argument)
        last = pushed


def _present_name(module: str, name: str) -> str:
    """Pickles of the formats that Python 2 knew have its names."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"
