# SPDX-License-Identifier: Apache-2.0
"""`spanbert-fill`: tables, JSON, pictures, line by line, and what is wrong in a sentence."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys

import pytest
import torch
from families_samples import family_config
from fill_samples import trained_model
from PIL import Image
from tiny_models import make_model, one_thread, tiny_tokenizer  # noqa: F401
from transformers import AutoModel, AutoModelForMaskedLM

from spanbert_ext import fill_spans
from spanbert_ext.fill.fill_cli import build_parser, main
from spanbert_ext.fill.heat_map import draw_heat_map
from spanbert_ext.fill.table import columns_of, fill_table, percent, shorten

TEXT = "the old {2} seeed a big [MASK] ."


@pytest.fixture
def said(capsys, monkeypatch):
    """Runs the command: exit status, standard output, standard error."""

    def run(*arguments, stdin: str | None = None) -> tuple[int, str, str]:
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            status = main([str(argument) for argument in (*arguments, "--device", "cpu")])
        except SystemExit as end:
            status = end.code
        return (status, *capsys.readouterr())

    return run


def without(folder, target, *prefixes: str):
    """A copy whose weights of these names are gone."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    kept = {name: x for name, x in weights.items() if not name.startswith(prefixes)}
    assert len(kept) < len(weights)
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    return target


# --- What it prints -------------------------------------------------------------------------------------------


def test_a_table_of_what_fill_spans_returns(folder, said):
    status, out, errors = said(folder, TEXT, "--top-k", 3)
    assert status == 0 and errors == ""
    filled = fill_spans(trained_model(), tiny_tokenizer(), TEXT, 3)
    assert out == fill_table(filled) + "\n"
    lines = out.splitlines()
    assert lines[0] == "the old [1] seeed a big [2] ."
    assert lines[2] == "[1] 2 tokens between old and see" and "MLM head" in lines[3]
    for head in ("mlm", "sbo", "both"):
        best = filled.spans[0].heads[head].fillings[0]
        assert f"{best.text}  {percent(best.probability)}" in " ".join(lines[4].split(" " * 3)).replace(
            "   ", "  "
        )


def test_json_is_valid_and_complete(folder, said):
    status, out, errors = said(folder, TEXT, "{1} cat", "--json", "--head", "both", "--head", "mlm")
    assert status == 0 and errors == ""
    first, second = map(json.loads, out.splitlines())
    filled = fill_spans(trained_model(), tiny_tokenizer(), [TEXT, "{1} cat"], heads=("mlm", "both"))
    assert first == json.loads(json.dumps(filled[0].as_dict())) and list(first["filled"]) == ["mlm", "both"]
    assert first["spans"][0]["heads"]["mlm"]["fillings"][0]["ids"] == list(
        filled[0].spans[0].heads["mlm"].fillings[0].ids
    )
    assert second["spans"][0]["agreement"] == [None] and "no boundary" in second["spans"][0]["sbo_absent"]


def test_texts_of_a_file_and_of_standard_input(folder, said, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("the [MASK] cat\n\n   \na {2} dog \n")
    expected = ["the [MASK] cat", "a {2} dog"]
    for given in ((folder, "--file", file), (folder, "--file", "-"), (folder,)):
        status, out, _ = said(*given, "--json", "--head", "mlm", stdin=file.read_text())
        assert status == 0 and [json.loads(line)["text"] for line in out.splitlines()] == expected
    _, out, _ = said(folder, "--file", file)
    assert out.count("-" * 80) == 1


def test_a_byte_order_mark_is_no_token(folder, said, tmp_path):
    """As Windows writes it: before the first span it would be a boundary."""
    (tmp_path / "texts.txt").write_bytes("\ufeff[MASK] cat\r\n".encode())
    plain = said(folder, "[MASK] cat", "--json")
    assert "no boundary" in plain[1]
    assert said(folder, "--file", tmp_path / "texts.txt", "--json") == plain
    assert said(folder, "--json", stdin="\ufeff[MASK] cat\n") == plain


def test_line_by_line_until_the_end(folder, said):
    lines = ["the [MASK] cat", "the cat", "the {x} cat", "a {99} dog", "a {2} dog"]
    for end in ("", "\n", "\n\nthe [MASK] dog\n"):
        status, out, errors = said(folder, "--interactive", "--json", stdin="\n".join(lines) + end)
        assert status == 0 and "Traceback" not in errors
        assert [json.loads(line)["text"] for line in out.splitlines()] == [lines[0], lines[4]]
        wrong = errors.splitlines()
        assert len(wrong) == 3 and all(line.startswith("spanbert-fill: error: ") for line in wrong)
        assert "no masked span" in wrong[0] and "'{x}'" in wrong[1] and "at most 64" in wrong[2]


def test_ctrl_c_ends_it_cleanly(folder, said, monkeypatch):
    answers = iter(["the [MASK] cat", KeyboardInterrupt])

    def line(prompt):
        answer = next(answers)
        if answer is KeyboardInterrupt:
            raise answer
        return answer

    monkeypatch.setattr("builtins.input", line)
    status, out, errors = said(folder, "--interactive", "--head", "mlm")
    assert status == 0 and "the [1] cat" in out and errors == ""

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("spanbert_ext.fill.filling.Filler.fill", interrupted)
    assert said(folder, TEXT) == (130, "", "\nInterrupted.\n")


def test_pictures(folder, said, tmp_path):
    one, several = tmp_path / "one.png", tmp_path / "several.png"
    status, out, _ = said(folder, TEXT, "--heat-map", one)
    assert status == 0 and out.endswith(f"\nHeat map: {one}\n")
    few = ("--top-k", 1, "--head", "mlm")
    status, out, errors = said(folder, TEXT, "{1} cat", "--json", "--heat-map", several, *few)
    assert len(out.splitlines()) == 2 and errors.count("Heat map: ") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "several-1.png", "several-2.png"]
    with Image.open(one) as picture:
        colours = picture.convert("RGB").getcolors(1 << 24)
        assert picture.format == "PNG" and picture.width > 700
    assert len(colours) > 50


def test_help_has_examples(said):
    status, out, _ = said("--help")
    assert status == 0 and "--interactive" in out and "{3}" in out
    shown = [line.split("  ")[0] for line in build_parser().epilog.splitlines() if "spanbert-fill my" in line]
    assert len(shown) >= 2


# --- What a checkpoint lacks ----------------------------------------------------------------------------------


def test_a_tokenizer_that_puts_no_ends_to_a_row_is_noted(folder, said, tmp_path):
    """Its rows are not those that spanbert-pretrain makes with the same tokenizer."""
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    rules = json.loads((bare / "tokenizer.json").read_text())
    (bare / "tokenizer.json").write_text(json.dumps(rules | {"post_processor": None}))
    settings = json.loads((bare / "tokenizer_config.json").read_text())
    (bare / "tokenizer_config.json").write_text(
        json.dumps(settings | {"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    status, _, errors = said(bare, TEXT)
    assert status == 0 and errors.startswith(
        "spanbert-fill: note: the tokenizer does not put [CLS] and [SEP] around a text, as the rows of"
    )
    assert said(folder, TEXT)[2] == ""


def test_without_an_sbo_only_the_mlm_head_fills_in(folder, said, tmp_path):
    bare = without(folder, tmp_path / "bare", "sbo.")
    status, out, errors = said(bare, TEXT)
    assert status == 0 and "SBO" not in out and "MLM head" in out
    assert (
        errors
        == f"spanbert-fill: note: {bare} has no weights of a span-boundary head: only the MLM head fills in\n"
    )
    status, out, errors = said(bare, TEXT, "--head", "sbo")
    assert (
        status == 2
        and out == ""
        and "--head sbo: " in errors
        and "no weights of a span-boundary head" in errors
    )
    assert said(bare, TEXT, "--head", "mlm")[2] == ""


def test_an_sbo_that_lacks_a_part_or_was_never_trained(folder, said, tmp_path):
    partial = without(folder, tmp_path / "partial", "sbo.norm2")
    assert "no weights of a span-boundary head" in said(partial, TEXT)[2]
    fresh = tmp_path / "fresh"
    make_model().save_pretrained(fresh)
    tiny_tokenizer().save_pretrained(fresh)
    status, out, errors = said(fresh, TEXT)
    assert status == 0 and "SBO" not in out and "untrained" in errors


def test_a_run_without_the_objective(folder, said, tmp_path):
    run = shutil.copytree(folder, tmp_path / "run")
    (run / "run.json").write_text(json.dumps({"options": {"sbo": False}}))
    assert "trained without the span-boundary objective" in said(run, TEXT)[2]
    (run / "run.json").write_text(json.dumps({"options": {"sbo": True}}))
    assert said(run, TEXT)[2] == ""


def test_an_unfinished_run_gives_its_newest_checkpoint(folder, said, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    status, _, errors = said(run, TEXT)
    assert status == 2 and "is not finished and has no checkpoint yet" in errors
    tiny_tokenizer().save_pretrained(run / "tokenizer")
    for step in (4, 20):
        make_model(step).save_pretrained(run / f"checkpoints/checkpoint-{step}")
    trained_model().save_pretrained(run / "checkpoints/checkpoint-20")
    (run / "checkpoints/checkpoint-300").mkdir()
    status, out, errors = said(run, TEXT)
    assert status == 0 and "its checkpoint of step 20" in errors
    assert out == said(folder, TEXT)[1]


def test_a_family_without_an_sbo_has_its_mlm_head(said, tmp_path):
    torch.manual_seed(0)
    narrow = {"embedding_size": 16, "intra_bottleneck_size": 32, "true_hidden_size": 32}
    AutoModelForMaskedLM.from_config(family_config("mobilebert", **narrow)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    status, out, errors = said(tmp_path, TEXT)
    assert status == 0 and "MLM head" in out and "has no span-boundary head" in errors


def test_a_random_head_is_refused(folder, said, tmp_path):
    encoder = tmp_path / "encoder"
    AutoModel.from_pretrained(folder, add_pooling_layer=False).save_pretrained(encoder)
    tiny_tokenizer().save_pretrained(encoder)
    status, out, errors = said(encoder, TEXT)
    assert status == 2 and out == "" and "has no weights for cls.predictions" in errors
    layer = without(folder, tmp_path / "layer", "bert.encoder.layer.1.")
    assert "has no weights for bert.encoder.layer.1." in said(layer, TEXT)[2]


def change_config(folder, target, **options):
    """A copy whose configuration is that of another model."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | options))
    return target


def test_an_encoder_that_is_cut_is_said(folder, said, tmp_path):
    status, _, errors = said(change_config(folder, tmp_path / "short", num_hidden_layers=1), TEXT)
    assert status == 0 and "has no place for bert.encoder.layer.1.attention" in errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 99}, "has shape [38"),
        ({"max_position_embeddings": 9}, "position_embeddings.weight has shape [64, 32], expected [9, 32]"),
        ({"span_pretraining": {"position_slots": 7, "position_dim": 24}}, "sbo.position_embeddings.weight"),
    ],
)
def test_a_configuration_of_other_shapes(folder, said, tmp_path, options, message):
    status, out, errors = said(change_config(folder, tmp_path / "model", **options), TEXT)
    assert status == 2 and out == "" and message in errors and "by config.json" in errors


def test_a_decoder_that_is_stored_beside_embeddings_of_another_shape(folder, said, tmp_path):
    """Newer transformers compare the two, of which they have left out one."""
    other = change_config(folder, tmp_path / "model", vocab_size=99)
    torch.save(trained_model().state_dict(), other / "pytorch_model.bin")
    (other / "model.safetensors").unlink()
    either = r"the embeddings have another shape than by config\.json|has shape \[.*\], expected \[.*\] by config\.json"
    assert re.search(either, said(other, TEXT)[2])


def test_an_option_that_keeps_the_sbo_from_being_read(folder, said, tmp_path):
    model = change_config(folder, tmp_path / "model", span_pretraining={"position_slots": -1})
    status, out, errors = said(model, TEXT)
    assert status == 0 and "MLM head" in out and "position_slots is -1 (int), expected" in errors
    assert "--head sbo: the span-boundary head of" in said(model, TEXT, "--head", "sbo")[2]


# --- What the user can correct --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def places(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("places")
    shutil.copytree(folder, root / "no-tokenizer", ignore=shutil.ignore_patterns("*token*"))
    (root / "empty").mkdir()
    (root / "model.pt").write_bytes(b"PK")
    shutil.copytree(folder, root / "damaged")
    (root / "damaged/model.safetensors").write_bytes(b"\0" * 50)
    shutil.copytree(folder, root / "no-model-type")
    (root / "no-model-type/config.json").write_text("{")
    (root / "latin.txt").write_bytes("a [MASK]\ncaf\xe9 [MASK]".encode("latin-1"))
    (root / "nothing.txt").write_text("\n \n")
    (root / "wrong.txt").write_text("the [MASK]\n\nthe {0}\n")
    return root


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL"], "standard input holds no text"),
        (["MODEL", "the cat"], "error: the text has no masked span: write [MASK], or {3}"),
        (["MODEL", "the [MASK]", "the {-1}"], "text 2: '{-1}' at character 5"),
        (["MODEL", "the {99999}"], "99,999 masked tokens; the model reads at most 64 tokens"),
        (["MODEL", "the [MASK]", "--file", "ROOT/wrong.txt"], "both TEXT and --file are given"),
        (["MODEL", "--file", "ROOT/wrong.txt"], "line 3 of ROOT/wrong.txt: '{0}'"),
        (["MODEL", "--file", "ROOT/none.txt"], "ROOT/none.txt cannot be read: No such file"),
        (["MODEL", "--file", "ROOT/empty"], "cannot be read: Is a directory"),
        (
            ["MODEL", "--file", "ROOT/latin.txt"],
            "line 2 of ROOT/latin.txt: the text is not UTF-8 at character 4",
        ),
        (["MODEL", "--file", "ROOT/nothing.txt"], "nothing.txt holds no text"),
        (["MODEL", "--file", "-", "--interactive"], "both read standard input"),
        (["MODEL", "[MASK]", "--top-k", "0"], "--top-k is 0; expected 1 or more"),
        (["MODEL", "[MASK]", "--top-k", "x"], "argument --top-k: invalid int value"),
        (["MODEL", "[MASK]", "--head", "nsp"], "invalid choice: 'nsp'"),
        (["MODEL", "[MASK]", "--heads", "mlm"], "unrecognized arguments: --heads mlm; perhaps --head"),
        (["MODEL", "[MASK]", "--heat-map", "ROOT/map.svg"], "expected the name of a .png file"),
        (["MODEL", "[MASK]", "--heat-map", "ROOT/none/map.png"], "is in a folder that does not exist"),
        (["MODEL", "[MASK]", "--tokenizer", "ROOT/empty"], "ROOT/empty has no tokenizer"),
        (["ROOT/no-tokenizer", "[MASK]"], "no-tokenizer has no tokenizer; --tokenizer names one"),
        (["ROOT/empty", "[MASK]"], "holds neither a model (config.json) nor a run"),
        (["ROOT/model.pt", "[MASK]"], "is a file; expected the folder of a model (spanbert-convert"),
        (["ROOT/none", "[MASK]"], "ROOT/none' does not exist"),
        (["", "[MASK]"], "CHECKPOINT is empty (an unset variable?)"),
        (["ROOT/damaged", "[MASK]"], "cannot load model 'ROOT/damaged': "),
        (["ROOT/no-model-type", "[MASK]"], "cannot load"),
        ([], "the following arguments are required: CHECKPOINT"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(folder, places, said, arguments, message):
    given = [argument.replace("MODEL", str(folder)).replace("ROOT", str(places)) for argument in arguments]
    status, out, errors = said(*given, stdin="")
    assert status == 2 and out == "" and errors.startswith("spanbert-fill: error: ")
    assert len(errors.splitlines()) == 1 and message.replace("ROOT", str(places)) in errors


def test_a_device_that_is_not_there(folder, capsys):
    assert main([str(folder), "[MASK]", "--device", "cpuu"]) == 2
    assert "--device 'cpuu' is none" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main([str(folder), "[MASK]", "--device", "cuda:1"]) == 2
        assert "finds no usable GPU" in capsys.readouterr().err


def test_another_tokenizer_can_be_named(folder, places, said):
    status, out, errors = said(places / "no-tokenizer", TEXT, "--tokenizer", folder)
    assert (status, errors) == (0, "") and out == said(folder, TEXT)[1]


# --- Columns --------------------------------------------------------------------------------------------------


def test_widths_are_those_of_a_terminal():
    assert [columns_of(text) for text in ("abc", "日本", "e\u0301")] == [3, 4, 1]
    assert [columns_of(text) for text in ("กิ", "नु", "❤\ufe0f")] == [1, 1, 1]  # of no combining class
    assert shorten("日本語の文", 6) == "日本…" and shorten("日本語", 6) == "日本語"
    assert [percent(p) for p in (1, 0.9996, 0.5, 0.0123456, 1e-5, 1e-9)] == [
        *("100 %", "100 %", "50.0 %", "1.23 %", "0.00100 %", "1.0e-09"),
    ]


def test_long_spans_and_strange_texts_are_drawn(tmp_path):
    model, tokenizer = trained_model(), tiny_tokenizer()
    filled = fill_spans(model, tokenizer, "the {25} cat $x$ 日本 $ [MASK] \\frac .", 1)
    draw_heat_map(filled, tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width < 2000
    assert fill_table(filled).count("the heads agree by") == 21
