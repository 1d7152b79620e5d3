# SPDX-License-Identifier: Apache-2.0
"""How well masked language models fill in held-out text that is masked by tokens and by spans:
`python -m support.evidence.mask_laws CHECKPOINT CORPUS FILE`.

A loss depends on what is masked, so losses of trainings under different masks say nothing of each other. Here every
model fills in the same masked rows under both laws, rows of one segment, read by transformers' own class. The file has
for each law, document and bin of span lengths the summed loss, the tokens that are right, and all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerBase

from spanbert_ext.masking.collator import DataCollatorForSpanMasking
from spanbert_ext.pretrain.prepare.prepared import load_prepared
from spanbert_ext.pretrain.rows.blocks import build_blocks
from spanbert_ext.pretrain.rows.held_out import split_tokenised
from spanbert_ext.pretrain.rows.rows import Rows
from spanbert_ext.pretrain.rows.token_documents import TokenDocuments
from spanbert_ext.pretrain.run.evaluations import LENGTHS, SHARED_LAWS
from spanbert_ext.pretrain.run.mask_laws import run_lengths
from spanbert_ext.pretrain.settings.masking_options import MASKINGS
from support.report import write_json

ROWS, BLOCK_SIZE, SEED = 32, 128, 0
MOST_ROWS = 64  # of a document: a novel among articles would be most of the text
COLUMNS = ("loss", "right", "tokens")


def held_out_rows(corpus: Path, tokenizer: PreTrainedTokenizerBase, share: float) -> Rows:
    """The first rows, of one segment, of the documents that the trainings held out."""
    split = split_tokenised(TokenDocuments(load_prepared(str(corpus))), share)
    blocks = build_blocks(split.documents, split.held_out, BLOCK_SIZE)
    return Rows(split.documents, blocks[blocks["number"] < MOST_ROWS], tokenizer, False)


@torch.inference_mode()
def measure(
    checkpoint: Path, corpus: Path, share: float, device: str
) -> dict[str, dict[str, list[list[float]]]]:
    """By law and document, [bins, 3]: the summed loss in nats, the tokens that are right, and all."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForMaskedLM.from_pretrained(checkpoint).to(device).eval()
    rows = held_out_rows(corpus, tokenizer, share)
    documents = rows.index["document"]
    edges = torch.tensor([*LENGTHS.values()][1:])
    found = {}
    for law in SHARED_LAWS:
        collate = DataCollatorForSpanMasking(tokenizer, seed=SEED, epoch=0, **MASKINGS[law])
        sums = {int(document): np.zeros((len(LENGTHS), len(COLUMNS))) for document in np.unique(documents)}
        for number, batch in enumerate(DataLoader(rows, ROWS, collate_fn=collate)):
            positions = batch["masked_positions"]  # [B, K], -1 behind the last of a row
            row, slot = (positions >= 0).nonzero(as_tuple=True)
            place = positions[row, slot]
            targets = batch["labels"][row, place]
            states = model.base_model(
                input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device)
            )[0]
            logits = (
                model.cls(states[row, place]).float().cpu()
            )  # [N, V] of BERT's head, at the masked positions alone
            losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none").numpy()
            right = (logits.argmax(1) == targets).numpy()
            bins = torch.bucketize(run_lengths(positions)[row, slot], edges, right=True).numpy()
            for token, document in enumerate(documents[number * ROWS + row.numpy()].tolist()):
                sums[document][bins[token]] += (losses[token], right[token], 1)
        found[law] = {str(document): own.tolist() for document, own in sums.items()}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("corpus", type=Path, help="the folder that spanbert-prepare wrote")
    parser.add_argument("file", type=Path)
    parser.add_argument("--held-out", type=float, default=0.01, help="as the trainings were told")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    given.file.parent.mkdir(parents=True, exist_ok=True)
    write_json(given.file, measure(given.checkpoint, given.corpus, given.held_out, given.device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
