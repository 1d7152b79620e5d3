# SPDX-License-Identifier: Apache-2.0
"""What each of two processes runs for test_two_processes.py: all cases in one start, errors written as JSON.

    torchrun --nproc-per-node 2 two_processes.py FOLDER torchrun
    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 two_processes.py FOLDER accelerate

Every error is relative to one process with the rows of both. FOLDER/runs.json lists scripts that run after the cases,
[[script, [argument, ...]], ...]: starting a process takes longer than all of them do.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import io
import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from test_loaders import hints_seen, skewed_rows
from test_next_sentence_trainer import ragged_pairs
from test_sharded import compare
from test_trainer_counts import Gradients, Stream, ragged_rows
from tiny_models import in_order, make_model, tiny_texts, tiny_tokenizer
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from spanbert_ext import DataCollatorForSpanMasking, SpanMaskingCallback, span_metrics

WORLD = 2
SECONDS = 120  # of one case; then all threads show where they are, and the process ends
ROWS = {
    "ragged rows": [
        "the small dog",
        "a cat",
        *tiny_texts(4, words=(8, 8)),
        *tiny_texts(6, seed=1, words=(32, 40)),
    ],
    "a rank without masked tokens": [*tiny_texts(6, words=(4, 24)), *[""] * 6],
    "equal counts, the MLM's alone": 2 * tiny_texts(6, words=(4, 24)),
}


def collate(rows: list[dict], epoch: int = 0, **options) -> dict:
    return DataCollatorForSpanMasking(tiny_tokenizer(), epoch=epoch, **options)(rows)


def counts(batches: list[dict]) -> dict[str, Tensor]:
    """Of one process."""
    return {
        "num_items_in_batch": sum((batch["labels"] >= 0).sum() for batch in batches),
        "num_sbo_items": sum((batch["left_boundary"] >= 0).sum() for batch in batches),
    }


def full(x: Tensor) -> Tensor:
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def flat(tensors) -> Tensor:
    return torch.cat([full(x).detach().flatten() for x in tensors])


def error(found: Tensor, wanted: Tensor) -> float:
    """The larger of the norms' and the largest elements' ratio."""
    norm = (found - wanted).norm() / wanted.norm()
    return float(torch.maximum(norm, (found - wanted).abs().max() / wanted.abs().max()))


def step(
    model: nn.Module, parallel: Callable, batches: list[dict], totals: dict, scale: float
) -> dict[str, Tensor]:
    """Loss, gradient and weights of one step. The mean over processes is a sum when each loss is times `scale`."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loss = torch.zeros((), dtype=model.sbo.bias.dtype)
    for batch in batches:
        part = parallel(**batch, **totals).loss
        (part * scale).backward()
        loss += part.detach()
    gradient = flat(p.grad for p in model.parameters())
    optimizer.step()
    return {"loss": loss, "gradient": gradient, "weights": flat(model.parameters())}


def one_step(wrap: Callable, rank: int, dtype: torch.dtype = torch.float32) -> dict:
    """A wrapped model on both processes' halves of the rows against the bare one on all of them."""
    tokenizer, errors = tiny_tokenizer(), {}
    for case, texts in ROWS.items():
        rows = [dict(tokenizer(text)) for text in texts]
        batch = collate(rows[6 * rank : 6 * rank + 6])
        totals = counts([batch])
        for count in totals.values():
            distributed.all_reduce(count)
        if case == "equal counts, the MLM's alone":
            del totals["num_sbo_items"]
        model = make_model().to(dtype)
        found = step(model, wrap(model), [batch], totals, WORLD)
        distributed.all_reduce(found["loss"])
        alone = make_model().to(dtype)
        wanted = step(alone, alone, [collate(rows)], {}, 1)
        errors[case] = {name: error(found[name], wanted[name]) for name in wanted}
        shapes: list = [None] * WORLD
        targets = int((batch["labels"] >= 0).sum())
        distributed.all_gather_object(
            shapes, [*batch["labels"].shape, batch["left_boundary"].shape[1], targets]
        )
        errors[case]["shapes"] = shapes  # B, L, K, targets
    return errors


def shard(model: nn.Module) -> nn.Module:
    mesh = distributed.device_mesh.init_device_mesh("cpu", (WORLD,))
    for module in (*model.bert.encoder.layer, model.sbo, model):
        fully_shard(module, mesh=mesh)
    return model


def trainer_errors(folder: Path, data, rows: list[dict], resume: bool = False, **options) -> dict:
    """A plain Trainer in float64: its updates, of 2 x 2 rows in each process, against one batch of 8."""
    nsp = "is_random_next" in rows[0]
    held_out = rows[:7] if data is rows else data.rows
    padded = options.pop("pad_to_multiple_of", None)
    collator = DataCollatorForSpanMasking(tiny_tokenizer(), pad_to_multiple_of=padded)
    recorder = Gradients()
    defaults = {"num_train_epochs": 2, "save_strategy": "steps" if resume else "no", "save_steps": 1}
    trainer = Trainer(
        make_model(nsp=nsp).double(),
        TrainingArguments(
            str(folder),
            learning_rate=0.0,
            optim="sgd",
            max_grad_norm=0.0,
            per_device_train_batch_size=2,
            per_device_eval_batch_size=2,
            gradient_accumulation_steps=2,
            ddp_backend="gloo",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            **(defaults | options),
        ),
        data_collator=collator,
        train_dataset=data,
        eval_dataset=held_out if data is rows else data,
        callbacks=[recorder, SpanMaskingCallback(collator)],
        compute_metrics=span_metrics,
    )
    if data is rows:
        in_order(trainer)
    trainer.train()
    if resume:
        distributed.barrier()
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-1"))
    updates = [(epoch, rows[at : at + 8]) for epoch in range(2) for at in range(0, len(rows), 8)]
    if resume:
        updates += updates[1:]
    alone = make_model(nsp=nsp).double()
    errors = []
    for found, (epoch, of_update) in zip(recorder.found, updates, strict="max_steps" not in options):
        alone.zero_grad()
        if trainer.args.average_tokens_across_devices:
            parts = [of_update]
        else:  # the mean of the processes' means: every other batch of two rows is one's own
            parts = [
                [row for i, row in enumerate(of_update) if i // 2 % WORLD == rank] for rank in range(WORLD)
            ]
        for part in parts:
            (alone(**collate(part, epoch)).loss / len(parts)).backward()
        errors.append(error(found, flat(p.grad for p in alone.parameters())))
    metrics = trainer.evaluate()
    with torch.no_grad():
        whole = alone.eval()(**collate(held_out), return_logits=False)
    names = ["mlm_loss", "sbo_loss", *(["nsp_loss", "nsp_count"] if nsp else [])]
    evaluation = [abs(metrics[f"eval_{name}"] / whole[name].item() - 1) for name in names]
    return {"world": trainer.args.world_size, "updates": errors, "evaluation": evaluation}


def accelerate_loop(accelerator: Accelerator) -> dict:
    """A loop of one's own, 2 x 2 ragged rows a process and update, then its evaluation of 7 rows."""
    rows = ragged_rows(16)
    loader = DataLoader(rows, batch_size=2, collate_fn=DataCollatorForSpanMasking(tiny_tokenizer(), epoch=0))
    held_out = DataLoader(rows[:7], batch_size=2, collate_fn=loader.collate_fn)
    bare = make_model()
    model, loader, held_out = accelerator.prepare(bare, loader, held_out)
    batches = list(loader)[:2]
    totals = {name: accelerator.reduce(count, "sum") for name, count in counts(batches).items()}
    found = step(bare, model, batches, totals, accelerator.num_processes)
    alone = make_model()
    wanted = step(alone, alone, [collate(rows[:8])], {}, 1)
    result = {
        name: error(accelerator.reduce(found[name], "sum") if name == "loss" else found[name], wanted[name])
        for name in wanted
    }

    model.eval()
    alone = make_model().eval()
    bare.load_state_dict(alone.state_dict())
    gathered = []
    with torch.no_grad():
        for batch in held_out:
            output = model(**batch, return_logits=False)
            gathered.append(accelerator.gather_for_metrics(output.row_statistics))  # [B, 6] of both
        statistics = torch.cat(gathered)
        whole = alone(**collate(rows[:7]), return_logits=False)
    nll, targets = statistics[:, 0].sum(), statistics[:, 1].sum()
    result["evaluation"] = float(abs(nll / targets / whole.mlm_loss - 1))
    result["evaluated"] = len(statistics)
    return result


def run_example() -> list[str]:
    """What examples/two_processes.py prints."""
    script = Path(__file__).resolve().parents[2] / "examples" / "two_processes.py"
    sys.path.insert(0, str(script.parent))
    arguments, sys.argv = sys.argv, [str(script)]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        runpy.run_path(str(script), run_name="__main__")
    sys.argv = arguments
    return printed.getvalue().splitlines()


def row_bounds(accelerator: Accelerator) -> dict:
    """What the collator counts, by the loader to the model, and the gradient with and without it."""
    seen, grads = {}, {}
    for bounds in ("auto", False):
        collator = DataCollatorForSpanMasking(tiny_tokenizer(), epoch=0, row_bounds=bounds)
        loader = DataLoader(skewed_rows(4), batch_size=96, collate_fn=collator)
        model = make_model().double()
        found = hints_seen(model)
        model, loader = accelerator.prepare(model, loader)
        for batch in loader:
            accelerator.backward(model(**batch).loss)
        grads[bounds] = flat(p.grad for p in model.parameters())
        seen[str(bounds)] = [{name: int(number) for name, number in of_batch.items()} for of_batch in found]
    other = grads["auto"].clone()
    distributed.broadcast(other, 0)
    equal = torch.tensor(int(torch.equal(other, grads["auto"])))
    distributed.all_reduce(equal)
    # An iterable dataset is read by the first process, which sends the others their share of joined batches.
    stream = accelerator.prepare(DataLoader(Stream(skewed_rows(4, size=48)), 48, collate_fn=collator))
    return {
        "seen": seen,
        "close": torch.allclose(grads["auto"], grads[False], rtol=1e-10, atol=1e-12),
        "largest": float(grads["auto"].abs().max()),
        "equal": int(equal),
        "dispatched": [len(batch["labels"]) for batch in stream],
    }


def run_scripts(folder: Path) -> None:
    """Those of runs.json, one after the other."""
    # Destroying a DistributedDataParallel joins gloo's threads while holding the GIL, which one of them may be
    # waiting for (torch 2.13): nothing is destroyed, and the process ends without tearing down.
    gc.disable()
    distributed.destroy_process_group = lambda *args: None  # of the scripts' end
    # Trainer before transformers 5.18 has the optimizer's state loaded to "cpu:0", which torch does not know.
    torch.serialization.register_package(
        0, lambda storage: None, lambda storage, place: storage if place == "cpu:0" else None
    )
    kept = []
    for script, arguments in json.loads((folder / "runs.json").read_text()):
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        AcceleratorState._reset_state(reset_partial_state=True)
        sys.argv = [script, *arguments]
        kept.append(runpy.run_path(script, run_name="__main__"))


def of_torchrun(folder: Path) -> dict[str, Callable]:
    rows, pairs, rank = ragged_rows(12), ragged_pairs(12), int(os.environ["RANK"])

    def begin() -> str:
        # a file: the launcher's store holds the addresses of the group that the example had
        options = {"init_method": f"file://{folder}/store", "rank": rank, "world_size": WORLD}
        distributed.init_process_group("gloo", **options)
        return distributed.get_backend()

    return {
        "example": run_example,
        "group": begin,
        "fsdp2": lambda: one_step(shard, rank),
        "fsdp2, each module": lambda: compare(WORLD, "everything"),
        "ddp": lambda: one_step(DistributedDataParallel, rank),
        "ddp, float64": lambda: one_step(DistributedDataParallel, rank, torch.float64),
        "trainer": lambda: trainer_errors(folder / "plain", rows, rows),
        "trainer, pairs": lambda: trainer_errors(folder / "pairs", pairs, pairs),
        "trainer, counts by process": lambda: trainer_errors(
            folder / "local", rows, rows, average_tokens_across_devices=False
        ),
        "trainer, resumed": lambda: trainer_errors(folder / "resumed", rows, rows, resume=True),
    }


def of_accelerate(folder: Path) -> dict[str, Callable]:
    accelerator, rows = Accelerator(cpu=True), ragged_rows(8)

    def stream(name: str, **options) -> dict:
        options = {"max_steps": 1, "num_train_epochs": 1} | options
        return trainer_errors(folder / name, Stream(rows), rows, **options)

    return {
        "loop": lambda: accelerate_loop(accelerator),
        "row bounds": lambda: row_bounds(accelerator),
        "fsdp2": lambda: one_step(shard, accelerator.process_index),
        "stream, dispatched": lambda: stream("dispatched", pad_to_multiple_of=32, dataloader_num_workers=1),
        "stream, read by each": lambda: stream("read", accelerator_config={"dispatch_batches": False}),
    }


def main(folder: Path, launcher: str) -> None:
    torch.set_num_threads(1)
    cases = {"torchrun": of_torchrun, "accelerate": of_accelerate}[launcher](folder)
    result = {}
    for name, case in cases.items():
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        result[name] = case()
    (folder / f"{launcher}-{os.environ['RANK']}.json").write_text(json.dumps(result))
    run_scripts(folder)
    distributed.barrier()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
