# SPDX-License-Identifier: Apache-2.0
"""`spanbert-evaluate`: checkpoints in, their scores on a task side by side out."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import shlex
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spanbert_ext.evaluate.tasks.options import TaskOptions
from spanbert_ext.evaluate.tasks.registry import TASKS, Entry
from spanbert_ext.files.messages import CommandParser
from spanbert_ext.files.output import lasting_output
from spanbert_ext.files.packages import missing_packages
from spanbert_ext.files.paths import empty_name, given_path
from spanbert_ext.files.signals import signal_of, signals_stop

FAILED, WRONG = 1, 2
PROGRAM = "spanbert-evaluate"
_TASK_LIST = "\n".join(f"  {name:<10}{entry.summary}" for name, entry in TASKS.items())
_EXAMPLES = "\n".join(f"  {PROGRAM} {entry.example}" for entry in TASKS.values())

DESCRIPTION = f"""Fine-tunes and scores checkpoints on a task, side by side: every one on the same folds under the same
seeds. Prints a table and writes a page with an interval for each score and each difference.

tasks:
{_TASK_LIST}

{PROGRAM} TASK --help tells a task's options."""

EPILOG = f"""examples:
{_EXAMPLES}

A finished job (a checkpoint, a seed, a fold) is a file in OUTPUT/results. The same command goes on where it was
stopped, and with more seeds or checkpoints it does only what is new.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True, help="one of the tasks above")
    for name, entry in TASKS.items():
        _add_task(
            tasks.add_parser(
                name,
                help=entry.summary,
                description=f"{entry.summary[0].upper()}{entry.summary[1:]}.",
                epilog=f"example:\n  {PROGRAM} {entry.example}\n",
                formatter_class=argparse.RawDescriptionHelpFormatter,
                argument_default=argparse.SUPPRESS,
                allow_abbrev=False,
            ),
            name,
            entry,
        )
    return parser


def _add_task(parser: argparse.ArgumentParser, name: str, entry: Entry) -> None:
    add = parser.add_argument_group("what is compared").add_argument
    add(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="[NAME=]FOLDER of a model with its tokenizer, or its name on the Hugging Face hub; several of one NAME are"
        " one system from several pre-training seeds",
    )
    add("--data", required=True, metavar="PATH", help=entry.data)
    add(
        "--output",
        default=f"evaluation-{name}",
        metavar="DIR",
        help=f"folder of the results (default: evaluation-{name})",
    )
    add(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="fine-tuning seeds, from 0 on (default: 3); of the head, the order of the rows and dropout",
    )
    add(
        "--only-folds",
        nargs="+",
        type=int,
        default=[],
        metavar="N",
        help="do these folds alone, counted from 1",
    )
    add = parser.add_argument_group("how the task is done").add_argument
    hints = typing.get_type_hints(entry.options)
    for field in dataclasses.fields(entry.options):
        about = field.metadata
        default = "" if field.default is None else f" (default: {_shown(field.default)})"
        add(
            _flag(field.name),
            type=_type(hints[field.name]),
            choices=about["choices"] or None,
            metavar=about["metavar"],
            help=about["help"] + default,
        )
    add = parser.add_argument_group("where it is done").add_argument
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="default: auto, a GPU where there is one",
    )
    add(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="bfloat16 autocast (default: on GPUs with bfloat16)",
    )
    add(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="jobs done at a time, which share the cores or are spread over the GPUs (default: 1); on a CPU another"
        " number of threads rounds sums in another way",
    )
    add("--no-progress", dest="progress", action="store_false", default=True, help="no progress bar")


def read_options(options: type[TaskOptions], given: dict[str, Any]) -> TaskOptions:
    """The task's options of a command line, checked. Raises `EvaluationError`."""
    from spanbert_ext.evaluate.tasks.form import EvaluationError

    fields = {field.name: field for field in dataclasses.fields(options)}
    values = {name: value for name, value in given.items() if name in fields}
    for name, value in values.items():
        about = fields[name].metadata
        least, most, above = about["least"], about["most"], about["above"]
        wrong = (
            (least is not None and not value >= least)
            or (most is not None and not value <= most)
            or (above is not None and not above < value < math.inf)
        )
        if wrong:
            if above is not None:
                expected = f"a finite number above {above:g}"
            elif most is None:
                expected = f"at least {least}"
            else:
                expected = f"from {least} to {most:,}"
            raise EvaluationError(f"{_flag(name)} is {value}, expected {expected}")
    return options(**values)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _type(hint: Any) -> type:
    return next(kind for kind in (typing.get_args(hint) or (hint,)) if kind is not type(None))


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 when a job failed, 2 for what the user can correct, 128 + signal when stopped."""
    with lasting_output():
        return _command(arguments)


def _command(arguments: Sequence[str] | None) -> int:
    given = _given(arguments)
    output = given_path(given["output"])
    try:
        with signals_stop():
            return _evaluate(given, output, sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt as stop:
        number = signal_of(stop)
        kept = len(list(output.glob("results/*.json")))
        print(
            f"\nStopped by {number.name}. Results kept in {output}: {kept}. The same command goes on.",
            file=sys.stderr,
        )
        return 128 + number


def _given(arguments: Sequence[str] | None) -> dict[str, Any]:
    """An option that a task does not have is the error of the task's parser, which knows the spelling meant."""
    parser = build_parser()
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        tasks = next(action for action in parser._actions if action.dest == "task")
        tasks.choices[namespace.task].error(f"unrecognized arguments: {' '.join(unknown)}")
    return vars(namespace)


def _evaluate(given: dict[str, Any], output: Path, arguments: list[str]) -> int:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # else it warns when workers start
    if missing := missing_packages("evaluate"):
        print(f"{PROGRAM}: error: {missing}", file=sys.stderr)
        return WRONG
    from spanbert_ext.evaluate.data.errors import DataError  # only now: --help answers at once
    from spanbert_ext.evaluate.report.summary import report
    from spanbert_ext.evaluate.run.evaluation import Request, evaluate
    from spanbert_ext.evaluate.statistics.results import ResultsError
    from spanbert_ext.evaluate.tasks.form import EvaluationError
    from spanbert_ext.files.disk import DiskError
    from spanbert_ext.files.lock import InUse

    try:
        if wrong := empty_name({f"--{name}": given[name] for name in ("data", "output")}):
            raise EvaluationError(wrong)
        for name in ("seeds", "processes"):
            if given[name] < 1:
                raise EvaluationError(f"--{name} is {given[name]}, expected at least 1")
        options = read_options(TASKS[given["task"]].options, given)
        request = Request(
            task=given["task"],
            checkpoints=given["checkpoints"],
            data=given_path(given["data"]),
            output=output,
            options=options,
            seeds=given["seeds"],
            only_folds=given["only_folds"],
            device=given["device"],
            bf16=given["bf16"],
            processes=given["processes"],
            progress=given["progress"],
        )
        evaluation = evaluate(request, {"command": f"{PROGRAM} {shlex.join(arguments)}"})
        if evaluation.failures:
            return _failed(evaluation.failures, output)
        print(f"\n{report(evaluation, request)}")
    except (EvaluationError, DataError, ResultsError, InUse) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return WRONG
    except DiskError as error:
        print(f"{PROGRAM}: error: {error}; what is finished is kept", file=sys.stderr)
        return FAILED
    return 0


def _failed(failures: Sequence[Any], output: Path) -> int:
    for failure in failures:
        job = failure.job
        print(failure.details, file=sys.stderr, end="")
        print(f"{PROGRAM}: error: {job.checkpoint.name}, seed {job.seed}: {failure.message}", file=sys.stderr)
    print(
        f"{len(failures)} job{'s'[: len(failures) - 1]} failed, the others' results are in {output}: the same command"
        " does what is missing.",
        file=sys.stderr,
    )
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
