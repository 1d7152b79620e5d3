# SPDX-License-Identifier: Apache-2.0
"""`spanbert-fill`: text with masked spans in, what each head of a checkpoint fills in out."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spanbert_ext.files.messages import CommandParser, escaped, reason
from spanbert_ext.files.output import lasting_output
from spanbert_ext.files.packages import missing_packages
from spanbert_ext.files.paths import empty_name, given_path

if TYPE_CHECKING:
    from spanbert_ext.fill.filling import Filler
    from spanbert_ext.fill.masked_text import MaskedRow
    from spanbert_ext.fill.results import FilledText

WRONG = 2
_CHUNK = 64  # texts that are answered together

DESCRIPTION = """Shows what a SpanBERT fills into masked spans of a text: by its masked language model (MLM head), by
the span-boundary objective from the two tokens outside the span alone (SBO head), and by both, with
probabilities, for whole spans and token by token. [MASK] is one masked token, {3} a span of three; a brace is written
{{ or }}."""

EXAMPLES = """examples:
  spanbert-fill my-spanbert 'The {2} of the function is a [MASK].'
  spanbert-fill my-spanbert 'It raises {2} if the file is missing.' --heat-map spans.png
  spanbert-fill my-spanbert --interactive                     a line in, a table out
  spanbert-fill my-spanbert --file texts.txt --json > filled.jsonl
  spanbert-fill bert-base-cased 'Paris is the [MASK] of France.'   any BERT: its MLM head

The probability of a filling is the product of its tokens': one forward pass predicts them independently of each other.
Special, unused and unknown tokens are not filled in; their share goes to no other token.

exit status: 0 done, 2 for what you can correct, 130 for Ctrl-C outside of --interactive
"""


class _Wrong(Exception):
    """What the user can correct, in a sentence."""


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="spanbert-fill",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "checkpoint",
        metavar="CHECKPOINT",
        help="--output of spanbert-pretrain (of an unfinished run the newest checkpoint), a saved folder, or a name on"
        " the Hugging Face hub",
    )
    add(
        "texts",
        nargs="*",
        metavar="TEXT",
        help="text with [MASK] or {3}; none: the lines of --file or standard input",
    )
    add("--file", metavar="FILE", help="a text a line; - is standard input")
    add(
        "--interactive",
        action="store_true",
        help="answer line by line, until an empty one, end of input or Ctrl-C",
    )
    add("--top-k", type=int, default=5, metavar="N", help="guesses a token, and fillings a span (default: 5)")
    add(
        "--head",
        action="append",
        dest="heads",
        choices=("mlm", "sbo", "both"),
        help="show this head alone; give it again for another (default: all that the checkpoint has)",
    )
    add("--all-tokens", action="store_true", help="fill in special, unused and unknown tokens too")
    add("--json", action="store_true", help="a line of JSON a text, in place of tables")
    add(
        "--heat-map",
        metavar="FILE",
        help="draw guesses and agreement of the heads as a PNG; of several texts FILE-1.png, FILE-2.png, ...; with"
        " --interactive the last line's",
    )
    add("--tokenizer", metavar="NAME", help="folder or hub name (default: the checkpoint's own)")
    add(
        "--device",
        default="auto",
        metavar="NAME",
        help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 2 for what the user can correct, 130 for Ctrl-C outside of --interactive."""
    given = build_parser().parse_args(arguments)
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)  # what is no text is told of its line
    with lasting_output() as lost:
        try:
            _run(given)
            if error := lost():
                raise _Wrong(f"standard output cannot be written: {error.strerror or error}")
        except _Wrong as error:
            print(f"spanbert-fill: error: {escaped(str(error))}", file=sys.stderr)
            return WRONG
        except KeyboardInterrupt:
            print("\nInterrupted.", file=sys.stderr)
            return 130
    return 0


def _run(given: argparse.Namespace) -> None:
    """Raises `_Wrong`."""
    if given.top_k < 1:
        raise _Wrong(f"--top-k is {given.top_k}; expected 1 or more")
    if wrong := empty_name({"--file": given.file, "--heat-map": given.heat_map}, "a file"):
        raise _Wrong(wrong)
    if missing := missing_packages("plots" if given.heat_map else ""):
        raise _Wrong(missing)
    _check_picture(given.heat_map)
    if sys.stdin is None and (given.interactive or given.file == "-"):
        raise _Wrong("standard input is closed")
    texts = _texts(given)
    filler = _load(given)
    rows = [_read(filler, text, origin) for text, origin in texts]
    for start in range(0, len(rows), _CHUNK):
        for number, filled in enumerate(_fill(filler, rows[start : start + _CHUNK]), start + 1):
            _show(given, filled, number if len(rows) > 1 else None)
    if given.interactive:
        _interact(given, filler)


def _check_picture(name: str | None) -> None:
    if name is None:
        return
    path = given_path(name)
    if path.suffix.lower() != ".png":
        raise _Wrong(f"--heat-map is {path}; expected the name of a .png file")
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else "is in a folder that does not exist"
        raise _Wrong(f"--heat-map {path} {what}; expected a file that can be written")


def _texts(given: argparse.Namespace) -> list[tuple[str, str]]:
    """Each text, and where it is from for messages."""
    if given.texts and given.file is not None:
        raise _Wrong("both TEXT and --file are given; expected one of them")
    if given.texts:
        return [
            (text, f"text {i}: " if len(given.texts) > 1 else "") for i, text in enumerate(given.texts, 1)
        ]
    if given.file is None and given.interactive:
        return []
    if given.file is None and (sys.stdin is None or sys.stdin.isatty()):
        raise _Wrong("no text; give one, or --file, or --interactive")
    name = "standard input" if given.file in (None, "-") else given.file
    if name == "standard input" and given.interactive:
        raise _Wrong("--file - and --interactive both read standard input; give one")
    try:
        if name == "standard input":
            content = sys.stdin.read()
        else:
            content = given_path(name).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise _Wrong(f"--file {name} cannot be read: {error.strerror or error}") from error
    lines = enumerate(content.removeprefix("\ufeff").split("\n"), 1)  # a byte order mark is no text
    found = [(line.strip(), f"line {number} of {name}: ") for number, line in lines if line.strip()]
    if not found:
        raise _Wrong(f"{name} holds no text")
    return found


def _load(given: argparse.Namespace) -> Filler:
    from spanbert_ext.fill.checkpoint import (  # only now: --help answers at once
        CheckpointError,
        load_checkpoint,
    )
    from spanbert_ext.fill.filling import Filler

    try:
        found = load_checkpoint(given.checkpoint, given.tokenizer, given.device)
    except CheckpointError as error:
        raise _Wrong(error) from error
    notes, heads = list(found.notes), given.heads
    if found.without_sbo is not None:
        if heads is not None and set(heads) != {"mlm"}:
            raise _Wrong(f"--head {next(x for x in heads if x != 'mlm')}: {found.without_sbo}")
        if heads is None:
            notes.append(f"{found.without_sbo}: only the MLM head fills in")
        heads = ("mlm",)
    for note in notes:
        print(f"spanbert-fill: note: {escaped(note)}", file=sys.stderr)
    try:
        return Filler(
            found.model, found.tokenizer, given.top_k, heads, allowed="all" if given.all_tokens else None
        )
    except ValueError as error:
        raise _Wrong(f"{given.checkpoint}: {error}") from error


def _read(filler: Filler, text: str, origin: str) -> MaskedRow:
    try:
        return filler.read(text)
    except ValueError as error:
        raise _Wrong(f"{origin}{error}") from error


def _fill(filler: Filler, rows: Sequence[MaskedRow]) -> list[FilledText]:
    try:
        return filler.fill(rows)
    except (ValueError, RuntimeError) as error:  # weights that are NaN, memory
        raise _Wrong(reason(error)) from error


def _show(given: argparse.Namespace, filled: FilledText, number: int | None) -> None:
    """`number`: of the text, where there are several."""
    if given.json:
        print(json.dumps(filled.as_dict(), allow_nan=False), flush=True)
    else:
        from spanbert_ext.fill.table import fill_table

        rule = "\n" + "-" * 80 + "\n" if number is not None and number > 1 else ""
        print(f"{rule}{fill_table(filled)}", flush=True)
    if given.heat_map is not None:
        from spanbert_ext.fill.heat_map import draw_heat_map

        path = given_path(given.heat_map)
        path = path if number is None else path.with_stem(f"{path.stem}-{number}")
        try:
            draw_heat_map(filled, path)
        except OSError as error:
            raise _Wrong(f"--heat-map {path} cannot be written: {error.strerror or error}") from error
        except ValueError as error:
            raise _Wrong(f"--heat-map {path}: {error}") from error
        print(
            f"{'' if given.json else chr(10)}Heat map: {path}", file=sys.stderr if given.json else sys.stdout
        )


def _interact(given: argparse.Namespace, filler: Filler) -> None:
    """Until an empty line, the end of the input, or Ctrl-C. What is wrong with one line does not end it."""
    prompt = ""
    if sys.stdin.isatty() and not given.json:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (input() then edits lines and has a history)
        print("Text with [MASK] or {3}; an empty line ends.")
        prompt = "> "
    try:
        while line := input(prompt).strip():
            try:
                _show(given, _fill(filler, [_read(filler, line, "")])[0], None)
            except _Wrong as error:
                print(f"spanbert-fill: error: {escaped(str(error))}", file=sys.stderr, flush=True)
            if not given.json:
                print()
    except EOFError:
        pass
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    sys.exit(main())
