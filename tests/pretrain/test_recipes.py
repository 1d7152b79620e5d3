# SPDX-License-Identifier: Apache-2.0
"""The paper's systems and ablations: what differs between them, and that each says what it does."""

from __future__ import annotations

import dataclasses

import pytest

from spanbert_ext.pretrain import cli
from spanbert_ext.pretrain.run.plan import describe_recipe
from spanbert_ext.pretrain.settings.masking_options import MASKINGS, collator_options
from spanbert_ext.pretrain.settings.option_checks import CHOICES
from spanbert_ext.pretrain.settings.options import Options
from spanbert_ext.pretrain.settings.recipes import RECIPES, recipe_list

# rows, NSP, SBO, masking: table A1 and section 6 of the paper
SYSTEMS = {
    "bert": ("google-pairs", True, False, "tokens"),
    "our-bert": ("spanbert-pairs", True, False, "tokens"),
    "our-bert-1seq": ("blocks", False, False, "tokens"),
    "spanbert": ("blocks", False, True, "spans"),
    "masking-subword": ("spanbert-pairs", True, False, "tokens"),
    "masking-words": ("spanbert-pairs", True, False, "words"),
    "masking-entities": ("spanbert-pairs", True, False, "entities"),
    "masking-noun-phrases": ("spanbert-pairs", True, False, "noun-phrases"),
    "masking-spans": ("spanbert-pairs", True, False, "spans"),
    "objective-pairs": ("spanbert-pairs", True, False, "spans"),
    "objective-1seq": ("blocks", False, False, "spans"),
    "objective-1seq-sbo": ("blocks", False, True, "spans"),
    "objective-pairs-sbo": ("spanbert-pairs", True, True, "spans"),
}


def resolved(name: str) -> Options:
    return Options(recipe=name, model="large").resolve()


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_is_what_the_paper_says(name):
    options = resolved(name)
    assert (options.rows, options.nsp, options.sbo, options.masking) == SYSTEMS[name]
    assert (options.block_size, options.learning_rate, options.warmup_steps) == (512, 1e-4, 10_000)
    assert (options.adam_beta2, options.dropout, options.max_grad_norm, options.ratio) == (
        0.999,
        0.1,
        1.0,
        0.15,
    )
    assert options.decay_all is False and options.unused_ids == 100
    if name == "bert":
        assert options.batch_size * options.gradient_accumulation == 256 and options.tokens_per_batch is None
        assert (options.max_steps, options.short_phase, options.short_block_size) == (1_000_000, 0.9, 128)
        assert (options.short_rows, options.dupe_factor) == (0.1, 10)
        assert (options.weight_decay, options.adam_epsilon, options.adam_bias_correction) == (
            0.01,
            1e-6,
            False,
        )
    else:
        assert (options.max_steps, options.tokens_per_batch) == (2_400_000, 131_072)
        assert (options.short_phase, options.short_rows, options.dupe_factor) == (0, 0, 0)
        assert (options.weight_decay, options.adam_epsilon, options.adam_bias_correction) == (0.1, 1e-8, True)


def test_all_recipes_are_tested_and_listed():
    assert RECIPES.keys() == SYSTEMS.keys()
    listed = recipe_list().splitlines()
    assert [line.split()[0] for line in listed] == list(SYSTEMS)
    assert all(recipe.name == name for name, recipe in RECIPES.items())


def test_a_recipe_sets_known_options_and_leaves_the_undertaking_to_the_user():
    names = {field.name for field in dataclasses.fields(Options)}
    for recipe in RECIPES.values():
        assert recipe.options.keys() <= names
        assert not recipe.options.keys() & {
            "model",
            "corpus",
            "tokenizer",
            "seed",
            "output",
            "bf16",
            "device",
        }


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("masking-subword", "our-bert"),
        ("masking-spans", "objective-pairs"),
        ("objective-1seq-sbo", "spanbert"),
    ],
)
def test_systems_under_two_names_are_one(first, second):
    assert RECIPES[first].options == RECIPES[second].options


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_recipe_says_what_it_means_and_where_it_comes_from(name):
    text = describe_recipe(resolved(name))
    assert text.startswith(f"Recipe {name}: {RECIPES[name].title}.")
    for side in ("as in the paper", "as in published code", "ours"):
        assert sum(line.startswith(f"  {side}  ") for line in text.splitlines()) == 1
    assert "changed here" not in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_what_a_run_changes_of_its_recipe_is_said():
    text = describe_recipe(
        Options(
            recipe="spanbert", model="base", epochs=2, batch_size=4, weight_decay=0.01, sbo=False
        ).resolve()
    )
    changed = " ".join(text[text.index("changed here") :].split())
    assert "--epochs 2 (recipe: --max-steps 2400000)" in changed
    assert "--batch-size 4 (recipe: --tokens-per-batch 131072)" in changed
    assert "--weight-decay 0.01 (recipe: 0.1)" in changed and "--sbo False (recipe: True)" in changed
    assert "--learning-rate" not in changed and "--eval-steps" not in changed


def test_list_prints_the_recipes_and_ends(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--recipe", "list"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == recipe_list().strip()


def test_an_unknown_recipe_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--recipe", "no-bert"])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert "--recipe" in printed and "no-bert" in printed and "our-bert-1seq" in printed


def test_masking_in_the_collators_terms():
    assert MASKINGS.keys() == set(CHOICES["masking"])
    spans, tokens = collator_options(resolved("spanbert")), collator_options(resolved("our-bert"))
    assert spans == {"seed": 0, "ratio": 0.15, "scheme": "geometric", "replacement": "span"}
    assert (tokens["scheme"], tokens["replacement"]) == ("tokens", "token")
    assert collator_options(resolved("bert"))["dupe_factor"] == 10
    for name in ("masking-entities", "masking-noun-phrases"):
        chosen = collator_options(resolved(name))
        assert (chosen["scheme"], chosen["candidate_share"]) == ("words", 0.5)
