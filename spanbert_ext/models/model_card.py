# SPDX-License-Identifier: Apache-2.0
"""The README.md of a saved model, its card on the Hugging Face hub: what the model is, how it is loaded, and what its
user says of it. A card that somebody else wrote, or changed, is never touched."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spanbert_ext._version import __version__
from spanbert_ext.files.disk import write_synced

CARD = "README.md"
TAGS = ("spanbert", "span-boundary-objective")
_FACTS = ("base_model", "language", "license", "corpus", "training", "metrics")
_MARK = "<!-- spanbert_ext wrote this card, and replaces it as long as it is unchanged: sha256 {} -->\n"
_ON_THE_HUB = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_PAPER = "[SpanBERT, Joshi et al., TACL 2020](https://aclanthology.org/2020.tacl-1.5/)"


def check_facts(facts: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a user says of a model, each a text, `language` and `corpus` also a list of texts.

    `base_model`: the name on the hub of what it was trained further from; `language`, `license`: as the hub writes
    them; `corpus`: the text that it was trained on; `training`, `metrics`: Markdown, the latter with how it was
    measured.

    Raises:
        TypeError: no mapping, another name, or a value that is no text.
    """
    if facts is None:
        return {}
    if not isinstance(facts, Mapping):
        raise TypeError(f"card is {facts!r}, expected a mapping with some of {', '.join(_FACTS)}")
    for name, value in facts.items():
        if name not in _FACTS:
            raise TypeError(f"card has {name!r}, expected some of {', '.join(_FACTS)}")
        several = isinstance(value, (list, tuple)) and name in ("language", "corpus")
        if not all(isinstance(one, str) for one in (value if several else [value])):
            raise TypeError(f"card has {name} {value!r}, expected a text")
    return dict(facts)


def card_text(model: Any, name: str, facts: Mapping[str, Any], tags: Sequence[str] = ()) -> str:
    """The card of a model that will be found as `name`. facts: as `check_facts` gives them."""
    import transformers  # only now: `spanbert-report --help`, which knows cards by their mark, answers at once
    from huggingface_hub import ModelCardData

    base = facts.get("base_model") or _base_model(model)
    data = ModelCardData(
        base_model=base,
        language=facts.get("language"),
        license=facts.get("license"),
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=list(dict.fromkeys((*(model.model_tags or TAGS), *tags))),
    )
    corpus = facts.get("corpus")
    parts = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# {name.rpartition('/')[2]}\n",
        _description(model, base),
        "" if corpus is None else _corpus([corpus] if isinstance(corpus, str) else corpus),
        f"## Training\n\n{facts['training'].strip()}\n" if "training" in facts else "",
        f"## Metrics\n\n{facts['metrics'].strip()}\n" if "metrics" in facts else "",
        _loading(model, name),
        f"## Versions\n\nspanbert_ext {__version__}, transformers {transformers.__version__},"
        f" torch {torch.__version__}\n",
    ]
    return _marked("\n".join(part for part in parts if part))


def write_card(folder: str | os.PathLike[str], text: str) -> bool:
    """Writes a card of `card_text` into a folder; False where a card is in it that is another's."""
    path = Path(folder) / CARD
    if os.path.lexists(path) and not is_our_card(path):
        return False
    write_synced(text, path)
    return True


def is_our_card(path: Path) -> bool:
    """Whether a file is a card that `card_text` made, and that nobody has changed since."""
    try:
        text = path.read_bytes().decode()
    except (OSError, ValueError):
        return False
    return text == _marked(text.rpartition(_MARK.partition("{}")[0])[0].removesuffix("\n"))


def _marked(text: str) -> str:
    return f"{text}\n{_MARK.format(hashlib.sha256(text.encode()).hexdigest())}"


def _base_model(model: Any) -> str | None:
    """The name on the hub that the model was loaded by; None where it was a folder, or nothing."""
    name = model.loaded_from
    on_the_hub = isinstance(name, str) and _ON_THE_HUB.fullmatch(name) and not os.path.exists(name)
    return name if on_the_hub else None


def _description(model: Any, base: str | None) -> str:
    config, count = model.config, sum(x.numel() for x in model.parameters()) / 1e6
    layers = getattr(config, "num_hidden_layers", None)
    size = f"{layers} layers of {config.hidden_size}, " if layers else ""
    further = f", trained further from `{base}`" if base else ""
    return (
        f"A masked language model of the type `{config.model_type}` ({size}{count:,.1f} M parameters){further}, made"
        f" for the objective of SpanBERT ({_PAPER}): contiguous spans of whole words are masked, and every masked token"
        " is predicted twice, by the masked-language-model head from its own place, and by the span-boundary head from"
        " the two tokens just outside its span and its place in it."
        + (" A third head predicts whether a sentence follows another.\n" if model.head_shape.nsp else "\n")
    )


def _corpus(names: Sequence[str]) -> str:
    return "## Text\n\n" + "\n".join(f"* `{name}`" for name in names) + "\n"


def _loading(model: Any, name: str) -> str:
    head = model.head_shape.decoder.partition(".")[0]
    return f"""## How to load it

```python
from transformers import AutoModel, AutoModelForMaskedLM

encoder = AutoModel.from_pretrained("{name}")
model = AutoModelForMaskedLM.from_pretrained("{name}")
```

Other classes for its type (`AutoModelForQuestionAnswering`, ...) load it in the same way. transformers then lists
weights that it has no place for as UNEXPECTED, which is right: `sbo.*` are the span-boundary head, and where no masked
language model is loaded, `{head}.*` are the masked-language-model head. What it lists as MISSING is new, as the head of
a task, and random until it is fine-tuned.

With both heads, to train it further or to fill in spans, by the package `spanbert_ext`:

```python
from spanbert_ext import SpanBertForPreTraining

model = SpanBertForPreTraining.from_pretrained("{name}")
```
"""
