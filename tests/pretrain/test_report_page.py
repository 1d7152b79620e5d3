# SPDX-License-Identifier: Apache-2.0
"""spanbert-report: what it reads of finished, running and damaged runs, the terminal's table, and the page: it needs
nothing else, text of a run stays text, and in a browser it fits a phone and a desktop and runs without an error."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from report_samples import log_history, write_run

from spanbert_ext.pages.charts import Chart, Line, number, svg, thin_out, ticks
from spanbert_ext.pretrain import report_cli
from spanbert_ext.pretrain.report.figures import figures, terminal_table
from spanbert_ext.pretrain.report.page import build_page
from spanbert_ext.pretrain.report.run_reader import differing_options, find_runs

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = {"meta", "input", "br", "link", "img"}


class Tree(HTMLParser):
    """Fails where tags are not closed in their order; keeps every attribute that could load something, and texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [
            (tag, name) for name, _ in attributes if name in ("src", "href", "xlink:href", "data", "action")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def report(*arguments: str | Path) -> int:
    return report_cli.main([str(argument) for argument in arguments])


# --- What is read --------------------------------------------------------------------------------------------


def test_a_folder_of_runs_stands_for_the_runs_in_it_and_none_is_read_twice(tmp_path):
    for name in ("b", "a"):
        write_run(tmp_path / "runs" / name)
    (tmp_path / "runs" / "notes").mkdir()
    found = find_runs([tmp_path / "runs", tmp_path / "runs" / "b"])
    assert [run.name for run in found] == ["a", "b"]


def test_names_are_as_long_as_it_takes_to_tell_runs_apart(tmp_path):
    folders = [write_run(tmp_path / name / "out") for name in ("first", "second")]
    assert [run.name for run in find_runs(folders)] == ["first/out", "second/out"]


def test_a_run_that_goes_on_is_read_up_to_its_last_evaluation_or_its_newest_checkpoint(tmp_path):
    folder = write_run(tmp_path / "run", steps=50, finished=False)
    (run,) = find_runs([folder])
    assert run.steps == 50 and run.state == "50% of 100"
    assert run.laws()["spans"]["mlm_accuracy"] == pytest.approx(0.15)
    assert run.laws()["tokens"]["mlm_accuracy"] == 0.2
    for step in (50, 80):
        checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "trainer_state.json").write_text(json.dumps({"log_history": log_history(step)}))
    assert find_runs([folder])[0].steps == 80


@pytest.mark.parametrize("content", ['{"unigram_entropy": 6.', "[1]", ""])
def test_a_damaged_file_is_named_and_the_rest_is_reported(tmp_path, capsys, content):
    folder = write_run(tmp_path / "run")
    (folder / "metrics.json").write_text(content)
    assert report(folder) == 0
    assert "warning: run: metrics.json cannot be read" in capsys.readouterr().err
    assert "metrics.json cannot be read" in (folder / "report.html").read_text()


@pytest.mark.parametrize("other", ["<b>", [], {"a": 1}, 7])
def test_entries_of_another_version_are_named_and_the_rest_is_reported(tmp_path, other):
    """Each entry of each file in turn: of another type, or not there."""
    folder = write_run(tmp_path / "run")
    for file in ("metrics.json", "run.json", "history.json", "samples.json"):
        whole = json.loads((folder / file).read_text())
        places = [(whole, name) for name in (whole if isinstance(whole, dict) else range(len(whole)))]
        for place in ("options", "held_out"):
            if isinstance(whole, dict) and isinstance(whole.get(place), dict):
                places += [(whole[place], name) for name in whole[place]]
        for content, name in places:
            was = content[name]
            content[name] = other
            (folder / file).write_text(json.dumps(whole))
            assert report(folder) == 0
            content[name] = was
        if isinstance(whole, dict):
            for name in [*whole]:
                (folder / file).write_text(json.dumps({key: x for key, x in whole.items() if key != name}))
                assert report(folder) == 0
        (folder / file).write_text(json.dumps(whole))
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**metrics, "documents": "many"}))
    assert find_runs([folder])[0].problems == ["metrics.json: documents is 'many'"]


def test_numbers_that_are_none_and_entries_that_are_missing_are_left_out(tmp_path, capsys):
    """A run that diverged: Trainer writes NaN, which is no JSON, and metrics.json null."""
    folder = write_run(tmp_path / "run")
    history = (folder / "history.json").read_text()
    (folder / "history.json").write_text(
        re.sub(r'"(mlm_loss|eval_mlm_loss|grad_norm)": [\d.]+', r'"\1": NaN', history)
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(
        json.dumps({**metrics, "tokens_per_second": None, "unigram_entropy": None})
    )
    (folder / "samples.json").write_text('{"examples": [{"before": "a"}, 3]}')
    assert report(folder) == 0
    printed = capsys.readouterr()
    assert "nan" not in printed.out.lower() and printed.err == ""
    page = (folder / "report.html").read_text()
    titles = Tree(page).texts
    assert "SBO loss" in titles and "MLM loss" not in titles and "NaN" not in page


def test_what_cannot_be_reported_is_named(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, message in (("empty", "holds no run"), ("file", "is a file"), ("nowhere", "is not there")):
        assert report(tmp_path / name) == 2
        printed = capsys.readouterr().err
        assert printed.startswith(f"spanbert-report: error: {tmp_path / name} {message}")


def test_only_a_report_of_its_own_is_replaced(tmp_path, capsys):
    folder, mine = write_run(tmp_path / "run"), tmp_path / "thesis.html"
    mine.write_text("years of work")
    assert report(folder, "--output", mine) == 2
    assert "is no report of this command" in capsys.readouterr().err and mine.read_text() == "years of work"
    assert report(folder, "--output", tmp_path) == 2 and "is a folder" in capsys.readouterr().err
    assert report(folder, "--output", tmp_path / "no" / "page.html") == 2
    assert "cannot be written" in capsys.readouterr().err
    for _ in range(2):
        assert report(folder, "--output", tmp_path / "page.html") == 0


def test_options_that_say_where_a_run_was_are_not_compared(tmp_path):
    write_run(tmp_path / "a", seed=1)
    write_run(tmp_path / "b", seed=2, recipe="spanbert")
    assert differing_options(find_runs([tmp_path])) == {"seed": [1, 2], "recipe": [None, "spanbert"]}


# --- Figures and the terminal --------------------------------------------------------------------------------


def test_terminal_table_by_hand(tmp_path):
    write_run(tmp_path / "a", seed=0)
    write_run(tmp_path / "bert", seed=3, nsp=True, recipe="our-bert")
    lines = terminal_table(find_runs([tmp_path])).splitlines()
    assert lines[0].split() == (
        "run model state steps tokens MLM SBO NSP right spans right tokens right tokens/s GB time".split()
    )
    assert lines[2].split() == (
        "a demo finished 100 50k 6.000 6.100 20.0% 20.0% 12,346 0.50* 1 h 6 min".split()
    )
    assert lines[3].split() == (
        "bert our-bert, demo finished 100 50k 6.000 6.100 75.0% 23.0%* 23.0%* 12,349* 3.50 1 h 6 min".split()
    )


def test_losses_under_different_masks_have_no_best(tmp_path):
    write_run(tmp_path / "a", seed=0, steps=50)
    write_run(tmp_path / "b", masking="words", seed=1)
    found = {figure.title: figure for figure in figures(find_runs([tmp_path]))}
    assert not found["MLM"].best and found["MLM"].cells == ["6.500", "6.000"]
    assert found["tokens right"].best == {1}


# --- Charts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (5.76, 6.24, [5.6, 5.8, 6.0, 6.2, 6.4]),
        (0, 2_400_000, [0, 1e6, 2e6, 3e6]),
        (3.0, 3.0, [3, 4]),
        (0, 0, [0, 0.25]),
        (-1e-9, 1e-9, [-1e-9, -5e-10, 0, 5e-10, 1e-9]),
        (-1e-15, 1e-15, [-1e-15, -5e-16, 0, 5e-16, 1e-15]),
        (30.0, 30.00000000000001, [30, 40]),  # equal but for rounding
        (-30.00000000000001, -30.0, [-30, -20]),
    ],
)
def test_ticks_are_round_and_hold_what_is_drawn(low, high, expected):
    found = ticks(low, high)
    rounding = 1e-15 * max(abs(low), abs(high))
    assert found[0] - rounding <= low and found[-1] >= high and len(found) <= 6
    assert found == pytest.approx(expected, abs=1e-20)


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (1234, "1,234"), (15_000, "15k"), (2.4e6, "2.4M"), (1e-4, "0.0001"), (0.3, "0.3")],
)
def test_numbers_on_axes(value, text):
    assert number(value) == text
    assert number(0.125, percent=True) == "12.5 %"


def test_long_lines_become_means_of_neighbours():
    points = [(float(i), float(i % 2)) for i in range(1000)]
    thin = thin_out(points)
    assert len(thin) == 200 and thin[0] == pytest.approx((2.0, 0.4))
    assert thin_out(points[:240]) == points[:240]


def test_a_chart_leaves_out_what_is_no_number_and_puts_points_where_they_belong():
    points = [(0.0, 0.0), (50.0, float("nan")), (100.0, 1.0)]
    drawn = svg(Chart("Loss", "step", "nats", [Line("a", 0, "held-out", points)]))
    assert re.search(r'points="52\.0,205\.0 388\.0,12\.0"', drawn)
    assert "nan" not in drawn.lower()


# --- The page ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    """Pages of one run, of three side by side, of one that has barely begun, and of one with hostile texts."""
    folder = tmp_path_factory.mktemp("pages")
    write_run(folder / "one" / "run")
    write_run(folder / "three" / "spanbert")
    write_run(folder / "three" / "our-bert", seed=1, nsp=True, recipe="our-bert", masking="tokens")
    write_run(folder / "three" / ("long" * 20), seed=2)
    begun = write_run(folder / "begun" / "run", finished=False)
    for name in ("history.json", "samples.json"):
        (begun / name).unlink()
    hostile = write_run(
        folder / "hostile" / "<img src=x onerror=alert(1)>", corpus=["</script><script>alert(2)"]
    )
    (hostile / "metrics.json").unlink()
    samples = json.loads((hostile / "samples.json").read_text())
    samples["examples"][0] |= {"before": "</style><b onclick=alert(3)>", "mlm": "\"'&<i>"}
    samples["examples"][0] |= {
        "tokens": "<img src=x onerror=alert(4)>",
        "mlm_right": "<b>",
    }  # of somebody else's run
    (hostile / "samples.json").write_text(json.dumps(samples))
    return {path.name: build_page(find_runs([path])) for path in sorted(folder.iterdir())}


def test_pages_are_well_formed_and_load_nothing(pages):
    for name, page in pages.items():
        tree = Tree(page)
        assert tree.loads == [], name
        assert "default-src 'none'" in page and not re.search(r"url\((?!#plot)|@import|https?:", page), name


def test_a_page_shows_what_the_runs_have(pages):
    one, three = Tree(pages["one"]), Tree(pages["three"])
    titles = (
        "MLM loss",
        "SBO loss",
        "Speed",
        "Memory",
        "Accuracy by span length",
        "Gradient norm",
        "Learning rate",
    )
    for tree in (one, three):
        for title in (*titles, "MLM accuracy, spans masked", "MLM accuracy, tokens masked", "build large"):
            assert title in tree.texts
    assert "NSP accuracy" in three.texts and "NSP accuracy" not in one.texts
    assert three.tags.count("article") == 1  # the example that all runs have stands once
    assert "Nothing is logged yet." in Tree(pages["begun"]).texts


def test_the_same_runs_give_the_same_page(tmp_path):
    folder = write_run(tmp_path / "run")
    assert build_page(find_runs([folder])) == build_page(find_runs([folder]))


def test_text_of_a_run_stays_text(pages):
    tree = Tree(pages["hostile"])
    assert "img" not in tree.tags and "b" not in tree.tags and tree.tags.count("script") == 1
    assert "</style><b onclick=alert(3)>" in "".join(tree.texts)


# The browser gives no window below 500 pixels, so the pages stand in frames of the widths that are asked for.
HARNESS = """
<script>
const frames = [...document.querySelectorAll("iframe")], results = {};
addEventListener("load", () => {
  for (const frame of frames) {
    const page = frame.contentDocument, root = page.documentElement, found = results[frame.title] = {};
    found.overflow = root.scrollWidth - frame.clientWidth;
    found.outside = [...page.querySelectorAll("figure, .scroll, .example, h1, svg.chart")].filter(
      x => x.getBoundingClientRect().right > frame.clientWidth + 0.5).length;
    const shown = x => x.getBoundingClientRect().width > 0;
    const charts = [...page.querySelectorAll("svg.chart")].filter(shown);
    found.charts = charts.length;
    found.columns = new Set(charts.map(x => Math.round(x.getBoundingClientRect().left))).size;
    found.smallest = Math.min(99, ...charts.map(x => 12 * x.getBoundingClientRect().width / x.viewBox.baseVal.width));
    found.tips = 0;
    for (const chart of charts) {
      const box = chart.getBoundingClientRect();
      for (const part of [0.2, 0.95]) {
        chart.dispatchEvent(new frame.contentWindow.PointerEvent("pointermove",
          {clientX: box.left + part * box.width, clientY: box.top + 40, bubbles: true}));
        const tip = chart.closest("figure").querySelector(".tip"), place = tip && tip.getBoundingClientRect();
        const inside = tip && place.left >= 0 && place.right <= frame.clientWidth && place.top >= box.top;
        if (inside && /: /.test(tip.textContent)) found.tips++;
      }
      chart.dispatchEvent(new frame.contentWindow.PointerEvent("pointerleave"));
    }
    found.left = page.querySelectorAll(".tip").length;
    const tokens = page.getElementById("by-tokens");
    if (tokens) {
      tokens.click();
      found.switched = charts.filter(shown).length < charts.length && [...page.querySelectorAll("svg.chart")].filter(
        shown).length === charts.length;
    }
  }
  document.title = JSON.stringify(results);
});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_a_browser_pages_fit_phone_and_desktop_and_their_script_runs(pages, tmp_path):
    frames = [
        f'<iframe title="{name} {width}" style="border:0;width:{width}px;height:900px" srcdoc="{escape(page)}">'
        "</iframe>"
        for name, page in pages.items()
        for width in (390, 1280)
    ]
    path = tmp_path / "frames.html"
    path.write_text("<!doctype html><meta charset=utf-8><body>" + "".join(frames) + HARNESS, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1400,1000",
        "--virtual-time-budget=10000",
    ]
    done = subprocess.run(
        [*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    results = json.loads(re.search(r"<title>(.*?)</title>", done.stdout)[1].replace("&quot;", '"'))
    assert len(results) == 2 * len(pages)
    for name, found in results.items():
        assert found["overflow"] <= 0 and found["outside"] == 0, (name, found)
        assert found["left"] == 0 and found["tips"] == 2 * found["charts"], (name, found)
        if not name.startswith("begun"):
            assert found["charts"] >= 10 and found["switched"], (name, found)
            assert found["smallest"] >= 9, (name, found)  # pixels of the smallest text
            assert (found["columns"] == 1) == name.endswith(" 390"), (name, found)
