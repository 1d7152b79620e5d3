# SPDX-License-Identifier: Apache-2.0
"""What a command prints, when nobody reads it any more, or when its stream has not every character."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO


def encodable(text: str, encoding: str = "utf-8") -> str:
    """`text` with escapes in the place of what an encoding has not: characters, or bytes of a file's name that are
    none."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


class _Lasting:
    """A text stream whose reader may go away: a terminal that is closed, `| tee` that the same Ctrl-C ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None  # why something was dropped, unless the reader went away

    def write(self, text: str) -> int:
        self._try(self._write, text)
        return len(text)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            self._stream.write(encodable(text, self._stream.encoding or "ascii"))

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, function: Any, *arguments: Any) -> None:
        try:
            function(*arguments)
        except OSError as error:
            if self.lost is None and not isinstance(error, BrokenPipeError):
                self.lost = error
            with contextlib.suppress(OSError, ValueError):  # a stream of a test has no descriptor
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())  # what is buffered goes there too
                os.close(nowhere)
        except RuntimeError:  # a signal handler that prints while the stream is being written
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lasting_output() -> Iterator[Callable[[], OSError | None]]:
    """Characters that a stream's encoding has not are written as escapes. Output that cannot be written is dropped,
    from then on all of its stream. Neither is a reason to end a run. A stream that was closed before the process began
    is None, to which nothing is printed.

    Returns:
        Whether standard output, where it is what a command is for, was dropped while somebody was still to read it, as
        in a file on a full disk: the error, or None.
    """
    out, errors = (stream and _Lasting(stream) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        yield lambda: out.lost if out is not None else None
