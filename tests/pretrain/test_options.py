# SPDX-License-Identifier: Apache-2.0
"""Where values of options come from, and what is refused: every message names the option, its value and what fits."""

from __future__ import annotations

import dataclasses
import json
import typing

import pytest

from spanbert_ext.pretrain import prepare_cli, report_cli
from spanbert_ext.pretrain.settings import option_checks
from spanbert_ext.pretrain.settings.defaults import DEMO, OWN_TEXT, PLAIN
from spanbert_ext.pretrain.settings.options import RESUMABLE, OptionError, Options, load_options, save_options
from spanbert_ext.pretrain.settings.parser import build_parser
from spanbert_ext.pretrain.settings.recipes import RECIPES
from spanbert_ext.pretrain.settings.sizes import MODELS


def parse(*arguments: str) -> Options:
    return Options(**vars(build_parser().parse_args(arguments)))


def test_every_option_is_on_the_command_line():
    parser = build_parser()
    there = {action.dest for action in parser._actions} - {"help", "plan_only"}  # with which there is no run
    assert there == {field.name for field in dataclasses.fields(Options)}


def test_every_number_has_a_range_and_every_choice_a_list():
    checked = {*option_checks.INTEGERS, *option_checks.NUMBERS, *option_checks.SHARES}
    for name, hint in typing.get_type_hints(Options).items():
        kinds = set(typing.get_args(hint)) or {hint}
        if kinds & {int, float} and bool not in kinds:
            assert name in checked, name
    for name, choices in option_checks.CHOICES.items():
        action = next(action for action in build_parser()._actions if action.dest == name)
        assert set(choices) <= set(action.choices)


# --- Where values come from ------------------------------------------------------------------------------------------


def test_the_demo_is_short_and_takes_no_recipe():
    demo = Options().resolve()
    for name, value in DEMO.items():
        assert getattr(demo, name) == value, name
    assert (demo.rows, demo.masking, demo.sbo, demo.nsp, demo.weight_decay) == (
        "blocks",
        "spans",
        True,
        False,
        0.1,
    )
    assert (demo.epochs, demo.max_tokens, demo.tokens_per_batch, demo.bf16) == (None, None, None, None)


def test_a_checkpoint_is_trained_further_on_ones_own_text_by_default():
    own = parse("--corpus", "notes.txt", "--model", "bert-base-cased").resolve()
    assert (own.epochs, own.learning_rate, own.warmup_ratio) == (3.0, 5e-5, 0.06)
    assert (
        own.max_steps is own.warmup_steps is own.eval_steps is own.save_steps is None
    )  # the text is unknown
    own = own.with_steps(1000)
    assert (own.warmup_steps, own.eval_steps, own.save_steps, own.logging_steps) == (60, 100, 100, 100)
    assert own.with_steps(1000) == own


@pytest.mark.parametrize("steps", [1, 9, 10, 57, 999, 123_456])
def test_own_text_is_evaluated_ten_times_or_after_every_step(steps):
    options = Options(model="some/bert").resolve().with_steps(steps)
    assert steps // options.eval_steps >= min(steps, 10)


@pytest.mark.parametrize("model", [name for name in MODELS if name != "demo"])
def test_a_model_from_random_weights_learns_faster_on_own_text(model):
    assert Options(model=model).resolve().learning_rate > OWN_TEXT["learning_rate"]
    assert Options(model=model, recipe="spanbert").resolve().learning_rate == 1e-4


def test_a_given_option_comes_before_the_demo_the_recipe_and_the_rest():
    demo = Options(recipe="bert").resolve()
    assert demo.max_steps == DEMO["max_steps"] and demo.rows == "google-pairs"
    paper = Options(recipe="bert", model="base").resolve()
    assert paper.max_steps == 1_000_000 and paper.adam_epsilon == 1e-6
    given = Options(
        recipe="bert", model="base", max_steps=77, adam_epsilon=1e-7, rows="spanbert-pairs"
    ).resolve()
    assert (given.max_steps, given.adam_epsilon, given.rows) == (77, 1e-7, "spanbert-pairs")
    assert given.candidate_share == PLAIN["candidate_share"]


def test_one_way_of_saying_a_thing_replaces_the_others():
    paper = {"recipe": "spanbert", "model": "base"}
    assert Options(**paper).resolve().tokens_per_batch == 131_072
    rows = Options(**paper, batch_size=4).resolve()
    assert (rows.batch_size, rows.tokens_per_batch, rows.gradient_accumulation) == (4, None, 8)
    for name, value in (("epochs", 2.0), ("max_tokens", 10**6)):
        options = Options(**paper, **{name: value}).resolve()
        assert getattr(options, name) == value and options.max_steps is None
    ratio = Options(warmup_ratio=0.5).resolve()  # the demo's own is in steps
    assert ratio.warmup_steps == ratio.max_steps // 2
    demo = Options(tokens_per_batch=4096).resolve()
    assert (demo.tokens_per_batch, demo.batch_size) == (4096, 4096 // DEMO["block_size"])


def test_a_short_run_keeps_the_schedules_shape():
    short = Options(model="base", recipe="our-bert", max_steps=50).resolve()
    assert (short.warmup_steps, short.eval_steps, short.logging_steps, short.save_steps) == (5, 5, 5, 5)
    assert Options(max_steps=50, save_steps=7).resolve().save_steps == 7
    assert Options(max_steps=3).resolve().warmup_steps == 1


def test_a_phase_of_short_rows_is_left_out_where_all_rows_are_short():
    assert Options(recipe="bert", model="tiny").resolve().short_phase == 0.9
    assert Options(recipe="bert", model="tiny", block_size=128).resolve().short_phase == 0.0
    with pytest.raises(OptionError, match=r"--short-block-size is 128, expected less than --block-size 64"):
        Options(recipe="bert", model="tiny", block_size=64, short_phase=0.5).resolve()


@pytest.mark.parametrize(("max_steps", "short"), [(1, 0), (2, 1), (4, 3), (5, 4), (10, 9), (200, 180)])
def test_the_phase_of_short_rows_is_never_the_whole_run(max_steps, short):
    assert Options(recipe="bert", model="tiny", max_steps=max_steps).resolve().short_steps == short


# --- What is refused -------------------------------------------------------------------------------------------------

REFUSED = [
    (["--max-steps", "0"], "--max-steps is 0, expected an integer from 1"),
    (["--batch-size", "1000000000"], "--batch-size is 1000000000"),
    (
        ["--vocab-size", "1000000000000"],
        "--vocab-size is 1000000000000, expected an integer from 100 to 4,194,304",
    ),
    (["--seed", "-1"], "--seed is -1"),
    (["--seed", str(2**63)], f"--seed is {2**63}"),
    (["--epochs", "0"], "--epochs is 0.0, expected a finite number above 0"),
    (["--epochs", "inf"], "--epochs is inf"),
    (["--learning-rate", "nan"], "--learning-rate is nan"),
    (["--learning-rate", "inf"], "--learning-rate is inf"),
    (["--weight-decay", "nan"], "--weight-decay is nan"),
    (["--held-out", "1"], "--held-out is 1.0, expected a finite number between 0 and 1"),
    (["--ratio", "0"], "--ratio is 0"),
    (["--candidate-share", "1.5"], "--candidate-share is 1.5"),
    (["--max-tokens", "0"], "--max-tokens is 0"),
    (["--dupe-factor", "-1"], "--dupe-factor is -1"),
    (["--epochs", "3", "--max-steps", "5"], "--max-steps 5 and --epochs 3.0 say the same thing"),
    (["--max-tokens", "9", "--epochs", "3"], "--epochs 3.0 and --max-tokens 9"),
    (["--warmup-steps", "3", "--warmup-ratio", ".1"], "--warmup-steps 3 and --warmup-ratio 0.1"),
    (["--batch-size", "3", "--tokens-per-batch", "999"], "--batch-size 3 and --tokens-per-batch 999"),
    (["--warmup-steps", "9", "--max-steps", "5"], "--warmup-steps is 9, expected at most the 5 steps"),
    (["--tokens-per-batch", "100"], "--tokens-per-batch is 100, expected at least --block-size 128"),
    (["--nsp"], "--nsp predicts"),
    (["--recipe", "our-bert", "--rows", "blocks"], "--no-nsp"),
    (["--short-rows", ".1"], "--short-rows is 0.1 but --rows is blocks"),
    (["--recipe", "bert", "--short-phase", "1"], "--short-phase is 1"),
    (
        ["--unused-ids", "100", "--vocab-size", "105"],
        "--unused-ids is 100, expected less than --vocab-size 105",
    ),
    (["--document-separator", ""], "--document-separator is ''"),
    (["--document-separator", "a\nb"], "--document-separator is 'a\\nb'"),
    (["--text-field", " "], "--text-field is empty"),
    (["--model", ""], "--model is empty"),
    (["--tokenizer", ""], "--tokenizer is empty"),
    (["--output", ""], "--output is empty"),
    (["--resume", "--overwrite"], "--overwrite deletes it: give one"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), REFUSED, ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_what_cannot_be_used_is_named(arguments, message):
    with pytest.raises(OptionError) as refused:
        parse(*arguments).resolve()
    assert message in str(refused.value)


def test_a_value_of_another_type_is_named():
    for name, value, kind in (
        ("max_steps", 2.5, "an integer"),
        ("seed", True, "an integer"),
        ("ratio", "much", "a number"),
        ("corpus", "notes.txt", "texts"),
        ("nsp", 1, "true or false"),
    ):
        with pytest.raises(OptionError, match=rf"{option_checks.flag(name)} is .*, expected {kind}, not"):
            Options(**{name: value}).resolve()
    with pytest.raises(OptionError, match="--recipe is 'no-bert', expected one of bert, our-bert"):
        Options(recipe="no-bert").resolve()


def test_switches_are_spelled_as_they_are_given():
    assert option_checks.flag("sbo", False) == "--no-sbo" and option_checks.flag("sbo") == "--sbo"
    assert (
        parse("--no-sbo").sbo is False and parse("--bf16").bf16 is True and parse("--no-bf16").bf16 is False
    )
    assert parse().sbo is parse().nsp is parse().bf16 is None


def test_seeds_of_64_bits_give_generators_32():
    assert Options(seed=7).seed_of_32_bits == 7 and Options(seed=2**32 - 1).seed_of_32_bits == 2**32 - 1
    high = {Options(seed=(k << 32) + 7).seed_of_32_bits for k in range(4)}
    assert len(high) == 4 and max(high) < 2**32
    assert 0 <= Options(seed=2**63 - 1).resolve().seed_of_32_bits < 2**32


# --- What a run keeps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [None, *RECIPES])
def test_saved_options_come_back(tmp_path, recipe):
    options = Options(recipe=recipe, model="tiny", epochs=2).resolve().with_steps(40)
    save_options(options, tmp_path / "run.json")
    loaded, _ = load_options(tmp_path / "run.json", {"resume": True})
    assert loaded == dataclasses.replace(options, output=str(tmp_path), resume=True)


def test_a_resumed_run_may_report_elsewhere_and_skip_what_it_stopped_at(tmp_path):
    save_options(Options().resolve(), tmp_path / "run.json")
    given = {"on_bad_loss": "skip", "impl": "reference", "report_to": ["none"], "workers": 3, "save_steps": 9}
    assert given.keys() <= RESUMABLE
    options, _ = load_options(tmp_path / "run.json", given)
    assert all(getattr(options, name) == value for name, value in given.items())
    with pytest.raises(OptionError, match=r"--sbo is False but the run in .* was started with True"):
        load_options(tmp_path / "run.json", {"sbo": False})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError"),
        ('{"options": null}', "AttributeError"),
        ('{"options": {"seed": "3"}}', "--seed is '3', expected an integer"),
        ('{"options": {"learning_velocity": 1}}', "options learning_velocity are not of this version"),
        ('{"options": {"seed": 3}}', "are missing"),
    ],
)
def test_a_run_file_of_something_else_is_named(tmp_path, content, reason):
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(OptionError) as refused:
        load_options(path, {})
    assert f"cannot read {path}" in str(refused.value) and reason in str(refused.value)


def test_a_run_file_holds_every_option(tmp_path):
    save_options(Options().resolve(), tmp_path / "run.json", corpus_digest="ab")
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["corpus_digest"] == "ab"
    assert content["options"].keys() == {field.name for field in dataclasses.fields(Options)}


@pytest.mark.parametrize(
    "build, given, said",
    [
        (build_parser, ["--maskng", "x"], "unrecognized arguments: --maskng x; perhaps --masking"),
        (build_parser, ["--recipe", "spanbrt"], "'objective-pairs-sbo'); perhaps spanbert"),
        (build_parser, ["--batch-size", "abc"], "invalid int value: 'abc'; --help tells the options"),
        (prepare_cli.build_parser, ["--corpus", "x", "--phrses"], "; perhaps --phrases"),
        (report_cli.build_parser, ["run", "--pge", "x"], "unrecognized arguments: --pge"),
    ],
)
def test_a_misspelt_option_is_one_line_without_the_usage(capsys, build, given, said):
    with pytest.raises(SystemExit) as ended:
        build().parse_args(given)
    errors = capsys.readouterr().err
    assert ended.value.code == 2 and errors.count("\n") == 1
    assert errors.startswith("spanbert-") and said in errors
