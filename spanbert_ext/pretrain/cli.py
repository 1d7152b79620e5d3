# SPDX-License-Identifier: Apache-2.0
"""`spanbert-pretrain`: text in, SpanBERT checkpoint out."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spanbert_ext.files.commands import place
from spanbert_ext.files.disk import FULL
from spanbert_ext.files.output import lasting_output
from spanbert_ext.files.packages import missing_packages
from spanbert_ext.files.paths import given_path
from spanbert_ext.files.signals import signal_of, signals_stop
from spanbert_ext.pretrain.settings.options import OptionError, Options, load_options
from spanbert_ext.pretrain.settings.parser import build_parser
from spanbert_ext.pretrain.settings.sizes import MODELS, SMALL
from spanbert_ext.pretrain.text.corpus_names import absolute_names

FAILED, WRONG = 1, 2
SCRIPT, MODULE = "spanbert-pretrain", "spanbert_ext.pretrain.cli"  # the two ways to start it


def read_options(given: dict[str, Any]) -> Options:
    """The options of the run to start or to resume. Raises `OptionError`."""
    given = _found_from_anywhere(given)
    if given.get("resume"):
        path = given_path(given.get("output", Options.output)) / "run.json"
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise OptionError(f"--resume: there is no run in {path.parent} (no {path.name})") from None
        except OSError as error:
            raise OptionError(f"--output {path.parent} cannot be read: {error.strerror or error}") from error
        return load_options(path, given)[0]
    return Options(**given).resolve()


def _found_from_anywhere(given: dict[str, Any]) -> dict[str, Any]:
    """Options of which a resumption from another folder finds what they name; names of the hub stay."""
    found = dict(given)
    if "corpus" in given:
        found["corpus"] = absolute_names(given["corpus"])
    if given.get("cache_dir"):
        found["cache_dir"] = os.path.abspath(given_path(given["cache_dir"]))
    for name in ("model", "tokenizer"):
        value = given.get(name)
        if value and value not in MODELS and os.path.exists(path := given_path(value)):
            found[name] = os.path.abspath(path)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 when a run that had begun cannot go on, 2 for what the user can correct, 128 + signal when
    interrupted. What is said on an error ends with what is kept and the command that goes on."""
    with lasting_output():
        return _command(arguments)


def _command(arguments: Sequence[str] | None) -> int:
    given = vars(build_parser().parse_args(arguments))
    plan_only = given.pop("plan_only", False)
    output = str(given.get("output", Options.output))
    try:
        with signals_stop():  # in the seconds that the libraries take to load
            if missing := missing_packages("pretrain"):
                return _fail(missing, WRONG)
            if plan_only and given.get("resume"):
                raise OptionError(
                    "--plan-only is for a run that is to begin, and --resume goes on with one, which prints its plan"
                    " first: give one of them"
                )
            options = read_options(given)
            if arguments is None:
                _share_cores(options.model)
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # else it warns when workers start
            from spanbert_ext.pretrain.run import train  # only now: --help and wrong options answer at once
    except OptionError as error:
        return _fail(error, WRONG)
    except KeyboardInterrupt as interruption:
        return _interrupted(interruption, f"Nothing was changed in {output}.")
    try:
        train.run(options, plan_only=plan_only)
    except train.USER_ERRORS as error:
        return _fail(error, WRONG)
    except train.FAILURES as error:
        return _fail(error, FAILED, output)
    except train.FirstFailed:  # which says why
        return FAILED
    except KeyboardInterrupt as interruption:
        unchanged = getattr(interruption, "begun", True) is False
        return _interrupted(interruption, f"Nothing was changed in {output}." if unchanged else _kept(output))
    except Exception as error:
        if not (isinstance(error, OSError) and error.errno in FULL):
            traceback.print_exc()
        return _fail(f"{type(error).__name__}: {error}", FAILED, None if plan_only else output)
    return 0


def _share_cores(model: str) -> None:
    """Starts the command anew with threads that wait asleep, where a step has so many short parallel regions that
    threads which wait busily take the core that another process needs, and then wait for it: on two cores, one of them
    taken, the demo is a quarter as fast with the usual wait and half as fast with this one. OpenMP reads its settings
    when torch is loaded, which this process has done.

    Only where this process is the command and nothing else, which has done nothing yet: a program that calls `main`
    would begin a second time, or never come to what it does after it."""
    settings = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "WORLD_SIZE")
    if model not in SMALL or sys.platform != "linux" or not os.environ.keys().isdisjoint(settings):
        return
    if not sys.executable or not _is_the_command(sys.modules["__main__"], sys.orig_argv, sys.argv):
        return
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed before this process began
            stream.flush()
    with contextlib.suppress(OSError):  # the run is the same without
        os.execve(
            sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"GOMP_SPINCOUNT": "1000"}
        )


def _is_the_command(program: Any, command: Sequence[str], arguments: Sequence[str]) -> bool:
    """Whether a process runs this command alone: its script, or this module by -m, with the arguments that it was
    started with.

    program: the process's `__main__`. command, arguments: `sys.orig_argv`, `sys.argv`."""
    given = list(arguments[1:])
    if list(command[len(command) - len(given) :]) != given:
        return False
    before = command[1 : len(command) - len(given)]
    if getattr(getattr(program, "__spec__", None), "name", None) == MODULE:
        return list(before[-2:]) == ["-m", MODULE]
    script = getattr(program, "__file__", None) or ""
    return Path(script).name == SCRIPT and list(before[-1:]) == [arguments[0]]


def _fail(error: object, status: int, output: str | None = None) -> int:
    print(f"spanbert-pretrain: error: {error}", file=sys.stderr)
    if output is not None:
        print(_kept(output), file=sys.stderr)
    return status


def _interrupted(interruption: KeyboardInterrupt, rest: str) -> int:
    number = signal_of(interruption)
    print(f"\nInterrupted by {number.name}. {rest}", file=sys.stderr)
    return 128 + number


def _kept(output: str) -> str:
    """What a run's folder holds to go on from, and how."""
    folder = given_path(output)
    if not os.path.isfile(folder / "run.json"):  # False too where the folder cannot be looked into
        return f"Nothing had begun in {output}: give the command again."
    steps = [
        int(path.name[11:]) for path in folder.glob("checkpoints/checkpoint-*") if path.name[11:].isdigit()
    ]
    where = f"from step {max(steps):,}" if steps else "from the beginning"
    return f"Go on {where} {_launched(f'--output {place(output)} --resume')}"


def _launched(arguments: str) -> str:
    """`arguments` for this command as it was started: a run goes on with as many processes as it began with."""
    processes, here = (_number(name) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if processes < 2:
        return f"with: {SCRIPT} {arguments}"
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true"):
        launcher = f"accelerate launch --use_fsdp --fsdp_version 2 --num_processes {processes}"
        return f"with: {launcher} -m {MODULE} {arguments}"
    nodes = processes // here if here else 1
    several = f"--nnodes {nodes} " if nodes > 1 else ""
    where = "on each machine, which torchrun is told as before, with" if nodes > 1 else "with"
    return f"{where}: torchrun {several}--nproc-per-node {processes // nodes} -m {MODULE} {arguments}"


def _number(variable: str) -> int:
    value = os.environ.get(variable, "")
    return int(value) if value.isdigit() else 0


if __name__ == "__main__":
    sys.exit(main())
