# SPDX-License-Identifier: Apache-2.0
"""evidence.py: which commands a part is, how they are gone on with, and what its page says of what they found."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_runs import import_from_benchmarks  # noqa: F401

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def step(name: str, code: str, **other: Any) -> Any:
    from support.evidence.steps import Step

    return Step(name, python(code), **other)


def append(text: str) -> str:
    """Code that leaves a trace in the folder of work."""
    return f"open('trace', 'a').write({text!r})"


# --- Steps --------------------------------------------------------------------------------------------------------


def test_what_is_done_is_not_done_again_unless_its_command_changes(tmp_path: Path) -> None:
    from support.evidence.steps import Runner

    for code in (append("a"), append("a"), append("b")):
        Runner(tmp_path).run([step("one", code)])
    assert (tmp_path / "trace").read_text() == "ab"


def test_a_failure_is_told_with_its_output_and_done_again(tmp_path: Path) -> None:
    from support.evidence.steps import Runner, StepFailed

    wrong = step("two", append("x") + "; raise SystemExit('no such text')")
    steps = [step("one", append("a")), wrong, step("three", append("c"))]
    for _ in range(2):
        with pytest.raises(StepFailed, match=r"two ended with 1(.|\n)*no such text"):
            Runner(tmp_path).run(steps)
    assert (tmp_path / "trace").read_text() == "axx"  # the first was done, the third never begins


def test_when_the_time_is_over_a_step_is_asked_to_stop_and_gone_on_with(tmp_path: Path) -> None:
    from support.evidence.steps import Runner, TimeIsOver

    slow = (
        "import signal, sys, time, pathlib; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143));"
        "pathlib.Path('begun').touch(); time.sleep(60)"
    )
    one = step("one", slow, begun=tmp_path / "begun", resumed=python(append("resumed")))
    start = time.monotonic()
    with pytest.raises(TimeIsOver, match="one stopped"):
        Runner(tmp_path, seconds=3).run([one])
    assert time.monotonic() - start < 30
    with pytest.raises(TimeIsOver, match="one has not begun"):
        Runner(tmp_path, seconds=0).run([one])
    Runner(tmp_path).run([one])
    Runner(tmp_path).run([one])
    assert (tmp_path / "trace").read_text() == "resumed"


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_step_that_runs(tmp_path: Path, ending: signal.Signals) -> None:
    from support.evidence.steps import Runner

    tell = f"import os, time; os.kill({os.getpid()}, {int(ending)}); time.sleep(10); {append('a')}"
    before = signal.signal(ending, lambda *_: None)
    try:
        with pytest.raises(KeyboardInterrupt):
            Runner(tmp_path).run([step("one", tell)])
    finally:
        signal.signal(ending, before)
    assert not (tmp_path / "trace").exists()


def test_a_changed_command_does_not_go_on_with_what_another_began(tmp_path: Path) -> None:
    """As with more --tokens: the run that is there would end at those that it was told first."""
    from support.evidence.steps import Runner, StepFailed

    code = "import pathlib; pathlib.Path('begun').touch(); raise SystemExit({})"
    resumed = {"begun": tmp_path / "begun", "resumed": python(append("resumed"))}
    first, second = (step("one", code.format(status), **resumed) for status in (1, 2))
    for own, status in ((first, 1), (second, 2), (second, 2)):
        with pytest.raises(StepFailed, match=f"one ended with {status}"):
            Runner(tmp_path).run([own])
    Runner(tmp_path).run([first])
    with pytest.raises(StepFailed, match="one ended with 2"):
        Runner(tmp_path).run([second])
    assert (tmp_path / "trace").read_text() == "resumed"
    (tmp_path / "begun.json").unlink()  # of an older folder it is known of what is done
    with pytest.raises(StepFailed, match="one ended with 2"):
        Runner(tmp_path).run([second])


def test_steps_run_together_and_one_failure_spares_the_others(tmp_path: Path) -> None:
    from support.evidence.steps import Runner, StepFailed

    meet = "import pathlib, time\nwhile len(list(pathlib.Path('.').glob('here-*'))) < 2: time.sleep(0.01)"
    steps = [step(f"s{i}", f"open('here-{i}', 'w')\n{meet}\nraise SystemExit({i})") for i in range(2)]
    with pytest.raises(StepFailed, match="s1 ended with 1"):
        Runner(tmp_path).run(steps, together=2)
    assert list(json.loads((tmp_path / "done.json").read_text())) == ["s0"]


# --- Plans --------------------------------------------------------------------------------------------------------


@pytest.fixture
def downstream(tmp_path: Path) -> Path:
    """Names of data; a plan looks whether they are there."""
    from support.evidence.studies import STUDIES

    for study in STUDIES.values():
        for evaluation in study.evaluations:
            path = tmp_path / "downstream" / evaluation.data
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return tmp_path / "downstream"


@pytest.mark.parametrize("rehearse", [False, True])
@pytest.mark.parametrize("part", ["cpu", "continued", "gpu"])
def test_the_commands_of_every_part_are_ones_that_the_programs_take(
    part: str, rehearse: bool, downstream: Path, tmp_path: Path
) -> None:
    from spanbert_ext.evaluate.evaluate_cli import build_parser as evaluate_parser
    from spanbert_ext.pretrain.prepare_cli import build_parser as prepare_parser
    from spanbert_ext.pretrain.settings.parser import build_parser as pretrain_parser
    from support.evidence import plan as plans
    from support.evidence.studies import STUDIES, SYSTEMS, rehearsal

    parsers = {
        plans.PREPARE: prepare_parser,
        plans.PRETRAIN: pretrain_parser,
        plans.EVALUATE: evaluate_parser,
    }
    study = rehearsal(STUDIES[part]) if rehearse else STUDIES[part]
    plan = plans.Plan(study, tmp_path, ["text"], downstream, seeds=2)
    steps = [own for stage in plan.stages() for own in stage]
    assert len({own.name for own in steps}) == len(steps)
    trained = {}
    for own in steps:
        _, _, name, *arguments = own.command
        if name not in parsers:
            assert name.startswith("support.evidence.")
            continue
        read = parsers[name]().parse_args(arguments)
        if name == plans.PRETRAIN and own.name != "pretrain-start":
            trained[own.name] = {
                option: value
                for option, value in vars(read).items()
                if option not in ("recipe", "seed", "output")
            }
            assert parsers[name]().parse_args(own.resumed[3:]).resume
    assert len(trained) == 2 * len(SYSTEMS)
    assert (
        len({json.dumps(options, sort_keys=True, default=str) for options in trained.values()}) == 1
    )  # alike


def test_tasks_without_data_are_left_out(downstream: Path, tmp_path: Path) -> None:
    from support.evidence.plan import Plan
    from support.evidence.studies import GPU

    (downstream / "qa/squad2_half_dev.json.xz").unlink()
    plan = Plan(GPU, tmp_path, ["text"], downstream, seeds=1)
    assert [own.name for own in plan.evaluations()] == [
        own.name for own in GPU.evaluations if own.name != "qa"
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["cpu", "--corpus", "x", "--tokens", "0"], "--tokens is 0"),
        (["cpu", "--corpus", "x", "--pretraining-seeds", "-1"], "--pretraining-seeds is -1"),
        (["cpu", "--corpus", "x", "--minutes", "nan"], "--minutes is nan"),
        (["mars", "--corpus", "x"], "mars"),
    ],
)
def test_wrong_options_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import evidence

    with pytest.raises(SystemExit) as stopped:
        evidence.read_arguments(arguments)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


# --- The page -----------------------------------------------------------------------------------------------------


def interval(low: float, high: float) -> dict[str, float]:
    return {"low": low, "high": high}


def probed(separated: bool, value: float = 10.0) -> dict[str, Any]:
    """A summary.json of two systems."""
    difference = {
        "first": "SpanBERT",
        "second": "BERT",
        "value": value,
        "standard_error": 1.0,
        "interval": interval(value - 2, value + 2),
        "holm_interval": interval(value - 3, value + 3),
        "p_value": 0.01,
        "holm_p_value": 0.01,
        "separated": separated,
    }
    estimates = [
        {
            "checkpoint": name,
            "value": own,
            "standard_error": 0.5,
            "interval": interval(own - 1, own + 1),
            "seed_values": [own],
            "seeds": "fine-tuning seeds",
            "runs": 3,
        }
        for name, own in (("BERT", 50.0), ("SpanBERT", 50.0 + value))
    ]
    comparison = {
        "metric": "accuracy",
        "level": 0.95,
        "items": 90,
        "clusters": 9,
        "estimates": estimates,
        "differences": [difference],
        "covers": "Intervals cover other items",
    }
    data = {
        "name": "mentions",
        "items": "items",
        "clusters": "texts",
        "comparisons": [comparison],
        "constant_answer": {"accuracy": 55.0},
        "left_out": ["F1 counts none of the 90 items"],
    }
    return {"data": [data]}


@pytest.fixture
def plan(downstream: Path, tmp_path: Path) -> Any:
    """A study of which everything is done, by hand."""
    from spanbert_ext.pretrain.run.evaluations import LENGTHS
    from support.evidence.plan import Plan
    from support.evidence.studies import CPU, SYSTEMS

    plan = Plan(CPU, tmp_path / "work", ["text"], downstream, seeds=1)
    for place, (system, _) in enumerate(plan.checkpoints()):
        metrics = {
            "tokens_seen": 10_000_000, "steps": 2441, "eval_mlm_loss": 5.0, "unigram_entropy": 7.0, "seed": 0,
            "documents": 40, "train_tokens": 9_000_000, "held_out_unit": "documents", "held_out_documents": 4,
        }  # fmt: skip
        laws = {
            law: {
                str(document): [[10.0 * (5 + place + 0.1 * document), 2 + (document + place) % 3, 10]]
                * len(LENGTHS)
                for document in range(12)
            }
            for law in ("spans", "tokens")
        }
        files = {
            plan.metrics_file(system, 0): metrics,
            plan.mask_law_file(system, 0): laws,
            **{
                plan.cost_file(system, turn): {"tokens_per_second": 1000.0 + turn, "peak_bytes": 5e8}
                for turn in range(2)
            },
        }
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
    assert list(SYSTEMS) == [system for system, _ in plan.checkpoints()]
    return plan


def summarise(plan: Any, summary: dict[str, Any]) -> None:
    path = plan.summary_file(plan.study.evaluations[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary))


def test_losses_are_means_over_tokens_and_told_apart_where_they_differ_everywhere(plan: Any) -> None:
    from support.evidence.findings import mask_laws, verdict

    for own in mask_laws(plan):
        losses, _ = own.comparisons
        values = {estimate.checkpoint: estimate.value for estimate in losses.estimates}
        assert values["BERT"] == pytest.approx(5.55) and values["SpanBERT"] == pytest.approx(8.55)
        (pair,) = [d for d in losses.differences if (d.first, d.second) == ("SpanBERT", "BERT")]
        assert verdict(own, losses, pair) == "BERT lower"


def test_documents_weigh_as_many_items_as_they_have_masked_tokens(plan: Any) -> None:
    """Counted as twelve of one size, equal systems would be separated in 11 % of all comparisons."""
    from scipy.stats import t as student

    from spanbert_ext.evaluate.scores.rows import ItemRow
    from spanbert_ext.evaluate.statistics.compare import compare
    from spanbert_ext.evaluate.statistics.results import Results
    from support.evidence.findings import ACCURACY, LOSS

    sizes = [60.0] * 10 + [1200.0] * 2
    rows = [(2 * size + place, size / 3 + place, size) for place, size in enumerate(sizes)]
    results = Results()
    results.add("BERT", "", 0, 0, [ItemRow(str(i), str(i), row) for i, row in enumerate(rows)])
    for metric in (ACCURACY, LOSS):
        (estimate,) = compare(results, metric).estimates
        effective = sum(sizes) ** 2 / sum(size**2 for size in sizes)
        half = estimate.standard_error * student.ppf(0.975, effective - 1)
        assert estimate.interval.high - estimate.value == pytest.approx(half)


def test_a_length_that_one_document_alone_has_is_left_out(plan: Any) -> None:
    from spanbert_ext.pretrain.run.evaluations import LENGTHS
    from support.evidence.findings import accuracy_by_length

    for system, seed in plan.checkpoints():
        path = plan.mask_law_file(system, seed)
        laws = json.loads(path.read_text())
        for document, bins in laws["spans"].items():
            bins[-1] = bins[-1] if document == "0" else [0.0, 0.0, 0.0]
        path.write_text(json.dumps(laws))
    for by_length in accuracy_by_length(plan).values():
        assert list(by_length) == list(LENGTHS)[:-1]


@pytest.mark.parametrize(
    "separated, value, says",
    [
        (True, 10.0, "SpanBERT higher (+10.0 [+7.0, +13.0])"),
        (True, 4.0, "SpanBERT higher, but not above a constant answer"),
        (True, -4.0, "BERT higher, but not above a constant answer"),
        (False, 10.0, "1 of 1 pairs not separated."),
        (False, 4.0, "1 of 1 pairs not separated; no system above the same answer to all (55.0)."),
    ],
)
def test_the_page_says_what_is_separated_and_whether_it_is_of_use(
    plan: Any, separated: bool, value: float, says: str
) -> None:
    from support.evidence.page import write_page

    summarise(plan, probed(separated, value))
    folder = plan.work / "page"
    text = write_page(plan, folder).read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("* **mentions**")]
    assert says in line
    assert "90 items of 9 texts; 3 runs of each system; left out: F1 counts none of the 90 items." in text
    (finding,) = [
        own for own in json.loads((folder / "evidence.json").read_text())["findings"] if own["constant"]
    ]
    assert finding["comparisons"] == probed(separated, value)["data"][0]["comparisons"]
    assert "neither confirmed nor refuted" in text and "| the same answer to all | 55.0 |" in text
    made = {path.name for path in folder.iterdir()}
    assert made == {"README.md", "evidence.json", "filling-in.png", "span-lengths.png", "probes.png"}
    assert all(f"({name})" in text for name in made if name.endswith(".png"))
    assert "| SpanBERT | 1,000 | 1,000, 1,001 | 500 |" in text.replace("1,000.5", "1,000")


def test_tasks_are_called_by_their_names_and_probes_by_those_of_their_data(plan: Any) -> None:
    from support.evidence.findings import evaluations
    from support.evidence.studies import CONTINUED

    evaluations_of = {evaluation.task: evaluation for evaluation in CONTINUED.evaluations}
    titles = {}
    for task, evaluation in evaluations_of.items():
        one = replace(plan, study=replace(CONTINUED, evaluations=(evaluation,)))
        summarise(one, probed(True))
        (found,) = evaluations(one)
        titles[task] = found.title
    assert titles == {
        "probe": "mentions",
        "qa": "question answering, mentions",
        "coref": "coreference, fine-tuned, mentions",
    }


@pytest.mark.parametrize("runs", [1, 2])
def test_the_page_says_where_each_system_was_fine_tuned_once(plan: Any, runs: int) -> None:
    """Its intervals cover other items and no other seed, however far apart they are."""
    from support.evidence.page import write_page
    from support.evidence.studies import CONTINUED

    plan = replace(plan, study=replace(CONTINUED, adaptation=0, evaluations=CONTINUED.evaluations[-1:]))
    summary = probed(True)
    for estimate in summary["data"][0]["comparisons"][0]["estimates"]:
        estimate["runs"] = runs
    summarise(plan, summary)
    text = write_page(plan, plan.work / "page").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("* **coreference, fine-tuned")]
    assert "SpanBERT higher" in line and ("each fine-tuned once" in line) == (runs == 1)


def test_the_runs_of_systems_are_told_and_not_those_of_their_start(plan: Any) -> None:
    from support.evidence.findings import evaluations

    summary = probed(True)
    estimates = summary["data"][0]["comparisons"][0]["estimates"]
    estimates.insert(0, estimates[0] | {"checkpoint": "start", "runs": 1})
    summarise(plan, summary)
    (found,) = evaluations(plan)
    assert "; 3 runs of each system" in found.items


def test_the_page_tells_what_all_systems_go_on_from(plan: Any) -> None:
    from support.evidence.page import write_page
    from support.evidence.studies import CONTINUED, START

    assert START not in write_page(plan, plan.work / "fresh").read_text()
    continued = replace(plan, study=replace(CONTINUED, adaptation=700_000))
    metrics = json.loads(plan.metrics_file("bert", 0).read_text()) | {"tokens_seen": 700_000}
    path = continued.metrics_file(START, 0)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(metrics))
    text = write_page(continued, plan.work / "continued").read_text()
    assert (
        "All go on from one checkpoint, `start`: a MiniLM" in text and "trained on 0.7 M tokens first" in text
    )
    assert "number of tokens (10.0 M each)" in text  # the systems', without those of their start


def test_a_page_of_what_is_there_by_now_and_none_of_nothing(plan: Any, tmp_path: Path) -> None:
    from support.evidence.page import write_page

    for system, _ in plan.checkpoints():
        plan.mask_law_file(system, 0).unlink()
        plan.cost_file(system, 0).unlink()
    text = write_page(plan, tmp_path / "page").read_text()
    assert "## Training" in text and "## Cost" not in text and "## Filling in" not in text
    for system, _ in plan.checkpoints():
        plan.metrics_file(system, 0).unlink()
    assert write_page(plan, tmp_path / "other") is None and not (tmp_path / "other").exists()


def test_a_page_of_somebody_else_is_spared(plan: Any, tmp_path: Path) -> None:
    from support.evidence.page import write_page

    (tmp_path / "page").mkdir()
    (tmp_path / "page/README.md").write_text("mine")
    with pytest.raises(FileExistsError, match="not written by this program"):
        write_page(plan, tmp_path / "page")
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["README.md"]
