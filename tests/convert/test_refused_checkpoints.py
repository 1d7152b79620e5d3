# SPDX-License-Identifier: Apache-2.0
"""What is no checkpoint, or not one of a SpanBERT, is refused by the file, the key or the name it calls for."""

from __future__ import annotations

import argparse
import ast
import io
import os
import pickle
import subprocess
import tarfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from published_samples import (
    INTERMEDIATE,
    LAYERS,
    H,
    prefixed,
    published_state,
    run_checkpoint,
    save,
    with_own_objects,
)
from tiny_models import one_thread  # noqa: F401

import spanbert_ext
from spanbert_ext import load_fairseq_checkpoint
from spanbert_ext.convert.checkpoint_file import CheckpointError, read_checkpoint_file

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")

# --- Planted code ------------------------------------------------------------------------------------------------


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class _Evil:
    pass


def planted(kind: str, trace: Path) -> tuple[object, str]:
    """An object whose pickle leaves `trace` when it is loaded in full, and the name that it is refused by."""
    code = f"open({str(trace)!r}, 'w').close()"
    if kind == "os.system":
        return Calls(os.system, f"touch {trace}"), "posix.system (os.system)"
    if kind == "subprocess":
        return Calls(subprocess.check_call, ["touch", str(trace)]), "subprocess.check_call"
    if kind == "eval":
        return Calls(eval, f"open({str(trace)!r}, 'w')"), "builtins.eval"
    if kind == "exec":
        return Calls(exec, code), "builtins.exec"
    if kind == "getattr":
        return Calls(getattr, Calls(__import__, "os"), "system"), "builtins.getattr"
    if kind == "nested":
        return Calls(pickle.loads, pickle.dumps(Calls(os.system, f"touch {trace}"))), "pickle.loads"
    if kind == "torch.load":
        inner = trace.with_suffix(".inner")
        torch.save(Calls(os.system, f"touch {trace}"), inner)
        return Calls(torch.load, str(inner), None, None), "torch.serialization.load"
    assert kind == "class"
    return _Evil(), f"{__name__}._Evil"


PLACES = {
    "alone": lambda x: x,
    "a key": lambda x: OrderedDict(published_state(), extra=x),
    "args": lambda x: run_checkpoint(published_state(), evil=x),
    "args in args": lambda x: run_checkpoint(published_state(), config=argparse.Namespace(hidden_act=x)),
    "optimizer": lambda x: with_optimizer(x),
    "tensor's attribute": lambda x: {"bert.x": with_attribute(x)},
}


def with_optimizer(x: object) -> dict:
    content = run_checkpoint(published_state())
    content["last_optimizer_state"]["state"][0]["exp_avg"] = [torch.zeros(2), {"deep": (x,)}]
    return content


def with_attribute(x: object) -> torch.nn.Parameter:
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.note = x
    return parameter


KINDS = ("os.system", "subprocess", "eval", "exec", "getattr", "nested", "torch.load", "class")


@pytest.mark.parametrize(
    ("kind", "place", "old", "protocol"),
    [
        *((kind, "args", True, 2) for kind in KINDS),
        *((kind, "optimizer", False, 2) for kind in KINDS),
        *(("os.system", place, old, 2) for place in PLACES for old in (True, False)),
        *(("eval", place, False, protocol) for place in ("alone", "args") for protocol in (3, 4, 5)),
        *((kind, "args", True, 4) for kind in KINDS),
        ("os.system", "alone", True, 0),
    ],
)
def test_planted_code_is_refused_by_name_and_not_run(tmp_path, kind, place, old, protocol):
    trace, path = tmp_path / "run", tmp_path / "model.pt"
    content, name = planted(kind, trace)
    save(PLACES[place](content), path, old, pickle_protocol=protocol)
    with pytest.raises(CheckpointError) as error:
        load_fairseq_checkpoint(path)
    assert not trace.exists()
    assert name in str(error.value) and "Nothing in it was run" in str(error.value)
    assert str(path) in str(error.value)
    if kind not in ("class", "getattr", "torch.load"):  # the plant works: a full unpickling runs it
        torch.load(path, weights_only=False)
        assert trace.exists()


def test_a_bare_pickle_is_refused_too(tmp_path):
    path, trace = tmp_path / "model.pt", tmp_path / "run"
    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps(Calls(os.system, f"touch {trace}"), protocol))
        with pytest.raises(CheckpointError, match="posix.system"):
            load_fairseq_checkpoint(path)
        assert not trace.exists()


def test_the_lists_of_the_process_stay_as_they_were(tmp_path):
    path = save(run_checkpoint(published_state()), tmp_path / "model.pt")
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        with torch.serialization.safe_globals([_Evil]):
            known = {*torch.serialization.get_safe_globals()}
            read_checkpoint_file(path)
            assert {*torch.serialization.get_safe_globals()} == known
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    read_checkpoint_file(path)
    assert {*torch.serialization.get_safe_globals()} == {*before}


def test_threads_read_at_the_same_time(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    path = save(run_checkpoint(published_state()), tmp_path / "model.pt")
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(read_checkpoint_file, [path] * 12):
            assert found["args"].hidden_size == H


def test_nothing_in_the_package_unpickles_in_full():
    """Every torch.load says weights_only=True, and nobody imports a module that unpickles."""
    calls = 0
    for file in Path(spanbert_ext.__file__).parent.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load"), file
                if name == "torch.load":
                    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert given.get("weights_only") == "True", file
                    calls += 1
                if name.endswith(("np.load", "numpy.load")):
                    assert "allow_pickle" not in {keyword.arg for keyword in node.keywords}, file
    assert calls >= 1


# --- Files -------------------------------------------------------------------------------------------------------


def tar_of(content: bytes, mode: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        member = tarfile.TarInfo("model.pt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"hello", "no file of torch.save: it begins with b'hello'"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "what a download got"),
        (tar_of(b"x", "w:gz"), "unpack it first"),
        (tar_of(b"x", "w"), "unpack it first"),
        (b"PK\x03\x04" + bytes(200), "cut off or damaged"),
        (b"\x80\x02", "cut off or damaged"),
        (b"\x80\x02K\x01.", "cut off or damaged"),
        (b"\x80\x02\xff\xff", "damaged"),
        (b"\x20\0\0\0\0\0\0\0{" + bytes(40), "cut off or damaged"),
    ],
    # names that every process collects alike: a gzip holds the time
    ids=["empty", "text", "lfs", "page", "tar.gz", "tar", "zip", "cut", "number", "bad", "safetensors"],
)
def test_what_is_no_checkpoint(tmp_path, content, said):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load_fairseq_checkpoint(path)
    assert str(path) in str(error.value) and said in str(error.value)
    assert "weights_only" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_off(tmp_path, old, share):
    path = save(run_checkpoint(published_state()), tmp_path / "model.pt", old)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="cut off|damaged") as error:
        load_fairseq_checkpoint(path)
    assert "weights_only" not in str(error.value)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match="nothing.pt does not exist"):
        load_fairseq_checkpoint(tmp_path / "nothing.pt")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_fairseq_checkpoint(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = save(published_state(), tmp_path / "model.pt")
    path.chmod(0)
    with pytest.raises(CheckpointError, match="Permission denied"):
        load_fairseq_checkpoint(path)


# --- Content -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds a list"),
        (torch.zeros(3), "holds a Tensor"),
        ({}, "holds no tensor"),
        ({"model": {}}, "holds no tensor"),
        ({"state_dict": {"a": torch.zeros(2)}}, "'state_dict' holds a dict"),
        ({"epoch": 3}, "'epoch' holds a int"),
        ({0: torch.zeros(2)}, "0 holds a Tensor"),
        ({"model.weight": torch.zeros(2)}, "no layer of an encoder"),
        ({"args": "--lr 1", "model": "published"}, "args is a str"),
    ],
)
def test_another_content(tmp_path, content, said):
    if content == {"args": "--lr 1", "model": "published"}:
        content = content | {"model": published_state()}
    with pytest.raises(CheckpointError) as error:
        load_fairseq_checkpoint(save(content, tmp_path / "model.pt"))
    assert said in str(error.value)


STATE = published_state(nsp=True)
KEYS = [name for name in STATE if not name.endswith("decoder.weight")]


@pytest.mark.parametrize("key", [name for name in KEYS if "layer.0" not in name])
def test_every_key_that_is_missing_is_named(tmp_path, key):
    state = prefixed(STATE)
    del state[f"decoder.{key}"]
    with pytest.raises(CheckpointError) as error:
        load_fairseq_checkpoint(save(state, tmp_path / "model.pt"))
    assert f"decoder.{key} is missing" in str(error.value)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_another_shape_is_named(tmp_path, key):
    state = OrderedDict(STATE)
    state[key] = torch.zeros([*STATE[key].shape[:-1], STATE[key].shape[-1] + 1])
    with pytest.raises(CheckpointError) as error:
        load_fairseq_checkpoint(save(state, tmp_path / "model.pt"))
    assert "shape" in str(error.value) and "expected" in str(error.value)
    if key not in (WORDS, SLOTS):  # which say what the sizes are: the next one differs then
        assert key in str(error.value)


def without_layer(state: dict, number: int) -> dict:
    return {name: x for name, x in state.items() if f"layer.{number}." not in name}


def changed(key: str, value) -> dict:
    return published_state() | {key: value(published_state()[key]) if callable(value) else value}


BIAS, WORDS = "cls.predictions.bias", "bert.embeddings.word_embeddings.weight"
SLOTS = "cls.pair_target_predictions.position_embeddings.weight"
MLM, SBO = "cls.predictions.decoder.weight", "cls.pair_target_predictions.decoder.weight"


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (without_layer(published_state(), 0), "bert.encoder.layer.0.* is missing, but there is"),
        (published_state() | {"cls.extra.weight": torch.zeros(2)}, "cls.extra.weight is unknown"),
        (published_state() | {"qa_outputs.weight": torch.zeros(2, H)}, "qa_outputs.weight is unknown"),
        (published_state() | {f"decoder.{BIAS}": torch.zeros(2)}, f"{BIAS} and decoder.{BIAS} are two names"),
        (
            published_state() | {"bert.embeddings.LayerNorm.weight": torch.ones(H)},
            "bert.embeddings.LayerNorm.gamma and bert.embeddings.LayerNorm.weight are two names",
        ),
        (changed(MLM, lambda x: x + 1e-3), f"{MLM} differs from {WORDS}: the decoder is not tied"),
        (changed(SBO, lambda x: x * 2), f"{SBO} differs from {WORDS}: the decoder is not tied"),
        (changed(MLM, torch.zeros(3, H)), f"{MLM} has shape [3, {H}]"),
        (
            published_state() | {"cls.predictions.decoder.bias": torch.zeros_like(STATE[BIAS])},
            f"cls.predictions.decoder.bias differs from {BIAS}",
        ),
        (changed(BIAS, lambda x: x.long()), f"{BIAS} has dtype torch.int64"),
        (changed(BIAS, lambda x: x.bool()), f"{BIAS} has dtype torch.bool"),
        (changed(BIAS, lambda x: x.to(torch.complex64)), f"{BIAS} has dtype torch.complex64"),
        (changed(BIAS, lambda x: x.to_sparse()), f"{BIAS} has dtype torch.float32 and layout torch.sparse"),
        (changed(BIAS, lambda x: x.to("meta")), f"{BIAS} has dtype torch.float32 and no values"),
        (changed(BIAS, lambda x: x.log()), f"{BIAS} holds NaN or an infinity"),
        (changed(BIAS, lambda x: x * torch.inf), f"{BIAS} holds NaN or an infinity"),
        (changed(WORDS, torch.zeros(H)), f"{WORDS} has shape [{H}], expected a matrix"),
        (changed(WORDS, torch.zeros(0, H)), f"{WORDS} has shape [0, {H}], expected a matrix"),
        (changed(WORDS, 5), f"'{WORDS}' holds a int"),
        (
            published_state(mlm=False) | {"cls.predictions.decoder.bias": STATE[BIAS]},
            "cls.predictions.transform.dense.weight, cls.predictions.transform.dense.bias",
        ),
    ],
)
def test_a_state_that_is_no_spanberts(tmp_path, state, said):
    with pytest.raises(CheckpointError) as error:
        load_fairseq_checkpoint(save(state, tmp_path / "model.pt"))
    assert said in str(error.value), str(error.value)


def test_packed_numbers(tmp_path):
    packed = torch.zeros_like(STATE[BIAS], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    with pytest.raises(
        CheckpointError, match=f"{BIAS} has dtype torch.float4_e2m1fn_x2, which torch makes no"
    ):
        load_fairseq_checkpoint(save(published_state() | {BIAS: packed}, tmp_path / "model.pt", old=False))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"pair_target_layer": 0}, "args.pair_target_layer is 0; a model of ours has -1"),
        ({"pair_target_layer": -2}, "args.pair_target_layer is -2"),
        ({"endpoints": "internal"}, "args.endpoints is 'internal'"),
        ({"hidden_act": "relu"}, "args.hidden_act is 'relu'"),
        ({"hidden_size": 768}, f"args: hidden_size is 768, but the tensors have {H}"),
        ({"num_hidden_layers": 12}, f"args: num_hidden_layers is 12, but the tensors have {LAYERS}"),
        ({"intermediate_size": 1}, f"args: intermediate_size is 1, but the tensors have {INTERMEDIATE}"),
        ({"max_position_embeddings": 512}, "args: max_position_embeddings is 512"),
        ({"max_pair_targets": 15}, "args: max_pair_targets is 15, but the tensors have 20"),
        (
            {"num_attention_heads": 7},
            f"args.num_attention_heads is 7, expected a divisor of the hidden size {H}",
        ),
        ({"num_attention_heads": "4"}, "args.num_attention_heads is '4'"),
        ({"hidden_dropout_prob": 1.5}, "args.hidden_dropout_prob is 1.5"),
        ({"attention_probs_dropout_prob": "0"}, "args.attention_probs_dropout_prob is '0'"),
        ({"config": 3}, "args.config is a int"),
        ({"config": argparse.Namespace(vocab_size=3)}, "args.config: vocab_size is 3"),
        (
            {"config": argparse.Namespace(num_attention_heads=2)},
            "args.num_attention_heads is 4 and args.config",
        ),
    ],
)
def test_arguments_of_another_model(tmp_path, arguments, said):
    with pytest.raises(CheckpointError) as error:
        load_fairseq_checkpoint(save(run_checkpoint(published_state(), **arguments), tmp_path / "model.pt"))
    assert said in str(error.value), str(error.value)


def test_a_configuration_of_fairseqs_own_that_disagrees(tmp_path):
    path = with_own_objects(run_checkpoint(published_state()), tmp_path / "model.pt", type_vocab_size=5)
    with pytest.raises(CheckpointError, match="args.config: type_vocab_size is 5, but the tensors have 2"):
        load_fairseq_checkpoint(path)


def test_the_layer_of_an_sbo_that_is_not_there_does_not_matter(tmp_path):
    content = run_checkpoint(published_state(None), pair_target_layer=3, max_pair_targets=3)
    with pytest.warns(UserWarning, match="no SBO head"):
        load_fairseq_checkpoint(save(content, tmp_path / "model.pt"))


@pytest.mark.parametrize("name", ["nsp", "position_slots", "position_dim"])
def test_an_option_that_the_file_decides(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} is read off the checkpoint"):
        load_fairseq_checkpoint(tmp_path / "model.pt", **{name: 1})


@pytest.mark.parametrize("heads", [0, -1, 3, 2.0, True])
def test_attention_heads_that_do_not_divide(tmp_path, heads):
    with pytest.raises(CheckpointError, match="num_attention_heads is"):
        load_fairseq_checkpoint(save(published_state(), tmp_path / "model.pt"), num_attention_heads=heads)


def test_attention_heads_that_the_arguments_contradict(tmp_path):
    path = save(run_checkpoint(published_state()), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="num_attention_heads is 8 and args.num_attention_heads is 4"):
        load_fairseq_checkpoint(path, num_attention_heads=8)
    assert load_fairseq_checkpoint(path, num_attention_heads=4).config.num_attention_heads == 4


def test_a_width_that_says_nothing_about_attention_heads(tmp_path, monkeypatch):
    import published_samples

    monkeypatch.setattr(published_samples, "H", 48)
    path = save(published_samples.published_state(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="48 is no multiple of 64: give num_attention_heads"):
        load_fairseq_checkpoint(path)
    assert load_fairseq_checkpoint(path, num_attention_heads=3).config.num_attention_heads == 3
