# SPDX-License-Identifier: Apache-2.0
"""The table and the page of an evaluation, from comparisons made by hand."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest

pytest.importorskip("transformers")

from spanbert_ext.evaluate.report.intervals import Bar, svg
from spanbert_ext.evaluate.report.page import build_page
from spanbert_ext.evaluate.report.summary import Section, Training
from spanbert_ext.evaluate.report.table import terminal_tables
from spanbert_ext.evaluate.statistics.compare import Comparison, Difference, Estimate, Interval

ABOUT = {
    "task": "qa",
    "checkpoints": [
        {"name": name, "pretraining_seed": "", "folder": f"/runs/{name}", "digest": name * 20}
        for name in ("tokens", "spans")
    ],
    "seeds": 3,
    "options": {"epochs": 3.0, "max_train": None},
    "device": "cpu",
    "precision": "float32",
    "versions": {"torch": "2.13"},
    "level": 0.95,
}


def comparison(metric: str, gap: float, half: float) -> Comparison:
    low, high = gap - half, gap + half
    estimates = tuple(
        Estimate(
            name,
            value,
            0.5,
            Interval(value - 1, value + 1),
            (value - 0.5, value + 0.5),
            "fine-tuning seeds",
            6,
        )
        for name, value in (("tokens", 60.0), ("spans", 60.0 + gap))
    )
    p = 0.0002 if low > 0 else 0.4
    difference = Difference(
        "spans",
        "tokens",
        gap,
        half / 2,
        Interval(low, high),
        Interval(low, high),
        p,
        p,
        separated=low > 0 or high < 0,
    )
    return Comparison(metric, 0.95, estimates, (difference,), 2910, 16, "intervals cover other articles")


def section(
    *comparisons: Comparison, diverged: int = 0, name: str = "squad2", constant: float = 20.0
) -> Section:
    trainings = [
        Training(n, 6, diverged, 75.0, {"updates": 500, "learning_rates": {"": 2e-4}})
        for n in ("tokens", "spans")
    ]
    constants = {comparison.metric: constant for comparison in comparisons}
    return Section(name, "qa", "questions", "articles", comparisons, constants, trainings)


def test_the_table_says_scores_differences_and_what_they_mean() -> None:
    text = terminal_tables([section(comparison("F1", 2.5, 1.0), comparison("EM", 0.5, 1.0))])
    assert text == (
        "squad2: 2,910 questions of 16 articles\n"
        "\n"
        "95 % intervals     F1                 EM\n"
        "-----------------  -----------------  -----------------\n"
        "tokens             60.0 [59.0, 61.0]  60.0 [59.0, 61.0]\n"
        "spans              62.5 [61.5, 63.5]  60.5 [59.5, 61.5]\n"
        "a constant answer  20.0               20.0\n"
        "\n"
        "difference          95 % interval      p        Holm's p\n"
        "--------------  --  -----------------  -------  --------  -------------\n"
        "spans - tokens  F1  +2.5 [+1.5, +3.5]  < 0.001  < 0.001   spans higher\n"
        "spans - tokens  EM  +0.5 [-0.5, +1.5]  0.400    0.400     not separated\n"
        "\n"
        "intervals cover other articles."
    )


def test_one_checkpoint_has_no_differences() -> None:
    alone = comparison("F1", 2.5, 1.0)
    alone = dataclasses.replace(alone, estimates=alone.estimates[:1], differences=())
    text = terminal_tables([section(alone)])
    assert "difference" not in text and "60.0 [59.0, 61.0]" in text
    page = build_page([section(alone)], ABOUT)
    assert "Differences" not in page and page.count("<svg") == 1


def test_runs_that_diverged_are_named_once_each() -> None:
    text = terminal_tables([section(comparison("F1", 2.5, 1.0), diverged=2)])
    assert text.count("2 of 6 runs of") == 2


@pytest.mark.parametrize("gap, higher", [(2.5, "spans"), (-2.5, "tokens")])
@pytest.mark.parametrize("constant", [20.0, 58.0, 61.0, 62.0, 80.0])
def test_a_gap_below_a_constant_answer_is_no_win(gap: float, higher: str, constant: float) -> None:
    one = section(comparison("F1", gap, 1.0), constant=constant)
    wins = constant < max(60.0, 60.0 + gap) - 1
    verdict = f"{higher} higher" if wins else f"{higher} higher, but not above a constant answer"
    assert f"  {verdict}\n" in terminal_tables([one])
    page = build_page([one], ABOUT)
    assert (f'<td class="separated">{verdict}</td>' if wins else f"<td>{verdict}</td>") in page
    assert f"a constant answer</td><td>{constant:.1f}</td>" in page
    drawn = constant > min(60.0, 60.0 + gap) - 1
    assert page.count('class="zero dashed"') == page.count("dashed: a constant answer") == drawn


def test_what_makes_a_comparison_unequal_is_said() -> None:
    plain = section(comparison("F1", 2.5, 1.0))
    assert "Checkpoints differ" not in terminal_tables([plain])
    first, second = plain.trainings
    other = dataclasses.replace(second, facts=second.facts | {"updates": 620, "learning_rates": {"": 5e-5}})
    text = terminal_tables([dataclasses.replace(plain, trainings=[first, other])])
    assert "Checkpoints differ in updates: tokens 500; spans 620." in text
    assert "Checkpoints differ in learning rates: tokens all 0.0002; spans all 5e-05." in text


def test_tables_of_a_narrow_terminal_stay_in_it() -> None:
    metrics = ("F1", "EM", "F1 with no-answer", "EM with no-answer")
    one = section(*(comparison(metric, 2.5, 1.0) for metric in metrics))
    wide, narrow = terminal_tables([one]), terminal_tables([one], 80)
    assert max(map(len, wide.splitlines())) > 80 >= max(map(len, narrow.splitlines()))
    assert wide == terminal_tables([one], 200)
    for text in (wide, narrow):
        assert text.count("62.5 [61.5, 63.5]") == 4 and text.count("+2.5 [+1.5, +3.5]") == 4
    assert "\nspans - tokens\n  F1 " in narrow and "\nspans              EM with no-answer  62.5 [" in narrow


class Tags(HTMLParser):
    """Opens and closes every element."""

    VOID = ("meta", "line", "circle", "br", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else_and_is_whole() -> None:
    sections = [
        section(comparison("F1", 2.5, 1.0), comparison("EM", 0.5, 1.0)),
        section(comparison("F1", -3, 1), name="b<c"),
    ]
    page = build_page(sections, ABOUT)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)
    assert "default-src 'none'" in page
    assert (
        page.count("<svg") == 6
        and "not separated" in page
        and "spans higher" in page
        and "tokens higher" in page
    )
    assert "b&lt;c" in page and "b<c" not in page
    assert page == build_page(sections, ABOUT)


def test_intervals_are_drawn_in_proportion() -> None:
    drawn = svg("F1", [Bar("a", 0, 1.0, 0.0, 2.0, (0.5, 1.5)), Bar("b", 1, 3.0, 2.0, 4.0)], "F1")
    lines = [tuple(map(float, found)) for found in re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)"', drawn)]
    (a_low, a_high), (b_low, b_high) = lines
    assert a_high == b_low and a_high - a_low == pytest.approx(b_high - b_low, abs=0.2)
    mean = float(re.findall(r'class="mean" cx="([\d.]+)"', drawn)[0])
    assert mean == pytest.approx((a_low + a_high) / 2, abs=0.2)
    assert drawn.count('class="single"') == 2


def test_zero_is_drawn_for_differences_far_from_it() -> None:
    drawn = svg("d", [Bar("a", 0, 8.0, 7.0, 9.0)], "F1", zero=True)
    assert drawn.count('class="zero"') == 1


def test_values_that_are_not_known_are_left_out() -> None:
    nan = float("nan")
    drawn = svg("d", [Bar("a", 0, nan, nan, nan), Bar("b", 0, 1.0, 0.5, 1.5)], "F1")
    assert drawn.count('class="mean"') == 1 and 'cx="nan"' not in drawn


def test_intervals_without_a_width_are_drawn() -> None:
    """Of documents that all have the same score: the interval is as wide as rounding makes it."""
    for zero in (False, True):
        for value in (0.0, 100 / 3):
            half = 1e-15 * (1 + value)
            drawn = svg("d", [Bar("a", 0, value, value - half, value + half)], "F1", zero=zero)
            assert drawn.count('class="mean"') == 1
