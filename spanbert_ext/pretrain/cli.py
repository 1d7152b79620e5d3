"""`spanbert-pretrain`: text in, SpanBERT checkpoint out."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spanbert_ext.pretrain.corpus_names import absolute_names
from spanbert_ext.pretrain.options import OptionError, Options, load_options
from spanbert_ext.pretrain.parser import build_parser


def read_options(given: dict[str, Any]) -> Options:
    """The options of the run to start or to resume. Raises `OptionError`."""
    if "corpus" in given:  # which a resumption from another folder must find
        given = {**given, "corpus": absolute_names(given["corpus"])}
    if given.get("resume"):
        path = Path(given.get("output", Options.output)).expanduser() / "run.json"
        if not path.is_file():
            raise OptionError(f"--resume: there is no run in {path.parent} (no {path.name})")
        return load_options(path, given)[0]
    return Options(**given).resolve()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 for what the user can correct, 128 + signal when interrupted."""
    given = vars(build_parser().parse_args(arguments))
    command = f"spanbert-pretrain --output {given.get('output', Options.output)} --resume"
    try:
        options = read_options(given)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # else it warns when workers start
        from spanbert_ext.pretrain import train  # only now: --help and wrong options answer at once
    except OptionError as error:
        return _fail(error)
    try:
        train.run(options)
    except train.USER_ERRORS as error:
        return _fail(error)
    except train.Interrupted as interruption:
        print(f"\nInterrupted; the last checkpoint is complete. Go on with: {command}", file=sys.stderr)
        return 128 + interruption.signal_number
    except KeyboardInterrupt:
        print(f"\nStopped. If a checkpoint had been saved, go on with: {command}", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _fail(error: Exception) -> int:
    print(f"spanbert-pretrain: error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
