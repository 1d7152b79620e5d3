# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint or the data cannot do is said before any checkpoint is trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

import tiny_documents
import tiny_tasks
from safetensors.torch import load_file, save_file
from tiny_models import one_thread  # noqa: F401
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from spanbert_ext.evaluate import evaluate_cli
from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.glue import GLUE_TASKS
from spanbert_ext.evaluate.tasks.form import Checkpoint, EvaluationError, Fold
from spanbert_ext.evaluate.tasks.registry import TASKS
from spanbert_ext.evaluate.tasks.relation.options import RelationOptions
from spanbert_ext.evaluate.tasks.relation.task import RelationTask


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With checkpoints of two layers and of one."""
    root = tmp_path_factory.mktemp("models")
    for name, layers in (("deep", 2), ("flat", 1)):
        tiny_tasks.save_checkpoint(root / name, tiny_documents.tokenizer(), num_hidden_layers=layers)
    return root


@pytest.fixture(scope="module")
def relations(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "TRAIN_FILE.TXT"
    path.write_text(tiny_documents.semeval(), encoding="utf-8")
    (found,) = RelationTask().load(path, RelationOptions())
    return found


def test_a_layer_that_one_checkpoint_lacks_is_named_before_the_other_is_read(
    folder, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(folder)
    (tmp_path / "gap.tsv").write_text(tiny_documents.gap())
    given = ["probe", "deep", "flat", "--data", str(tmp_path), "--output", str(tmp_path / "out")]
    given += ["--folds", "2", "--seeds", "1", "--epochs", "1", "--device", "cpu", "--no-progress"]
    assert evaluate_cli.main([*given, "--layer", "2"]) == 2
    said = capsys.readouterr().err
    assert "--layer is 2, but the encoder in flat has the layers 1 to 1, and 0, its embeddings" in said
    assert not list((tmp_path / "out" / "results").iterdir())
    assert evaluate_cli.main([*given, "--layer", "-2"]) == 0


@pytest.mark.parametrize("name", TASKS)
def test_every_task_loads_the_weights_of_every_checkpoint(folder, relations, tmp_path, name: str) -> None:
    whole, broken = (Checkpoint(n, path, n) for n, path in (("whole", folder / "deep"), ("broken", tmp_path)))
    tiny_tasks.save_checkpoint(tmp_path, tiny_documents.tokenizer(), num_hidden_layers=2)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "layer.1." not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    data = relations if name == "relation" else SimpleNamespace(task=GLUE_TASKS["rte"])
    folds = [Fold("dev", (0, 1), (2, 3))]
    task, options = TASKS[name].make(), TASKS[name].options()
    task.check(whole, [data], [folds], options)
    with pytest.raises(EvaluationError, match="lacks 16 weights of its encoder"):
        task.check(broken, [data], [folds], options)


def test_a_span_without_a_token_is_named_where_a_fold_has_it(folder, relations) -> None:
    checkpoint = Checkpoint("flat", folder / "flat", "flat")
    first, second, *others = relations.relations
    text = "\u200b" * (first.head[1] - first.head[0])  # of which a tokenizer makes nothing
    odd = dataclasses.replace(first, text=first.text[: first.head[0]] + text + first.text[first.head[1] :])
    data = dataclasses.replace(relations, relations=(odd, second, *others))
    task, options = RelationTask(), RelationOptions()
    task.check(checkpoint, [data], [[Fold("one", (1, 2), (3,))]], options)
    for fold in (Fold("one", (0, 1), (2,)), Fold("one", (1, 2), (0,))):
        with pytest.raises(DataError, match=r"the tokenizer makes no token of the head .* of '1'"):
            task.check(checkpoint, [data], [[fold]], options)


@pytest.mark.parametrize(
    ("name", "meaning"),
    [("qa", "which stands for no answer"), ("glue", "from which its class is read")],
)
def test_a_row_without_its_first_token_is_refused(tmp_path, name: str, meaning: str) -> None:
    bert = tiny_documents.tokenizer()
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bert.backend_tokenizer, **names)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A [SEP]", pair="$A [SEP] $B [SEP]", special_tokens=[("[SEP]", bert.sep_token_id)]
    )
    checkpoint = tiny_tasks.save_checkpoint(tmp_path, tokenizer)
    task, options = TASKS[name].make(), TASKS[name].options()
    with pytest.raises(
        EvaluationError, match=rf"puts no \[CLS\] into a row, {meaning}: give it a post-processor"
    ):
        task.check(checkpoint, [], [], options)
