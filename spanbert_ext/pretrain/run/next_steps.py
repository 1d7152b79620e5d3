# SPDX-License-Identifier: Apache-2.0
"""What a finished run says last: held-out losses before and after, and the commands that come next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spanbert_ext.files.commands import option, place
from spanbert_ext.files.paths import given_path
from spanbert_ext.pretrain.settings.defaults import OWN_TEXT, PLAIN
from spanbert_ext.pretrain.settings.option_checks import flag
from spanbert_ext.pretrain.settings.options import Options

HEADS = {"mlm": "masked tokens", "sbo": "spans from their boundaries", "nsp": "next sentences"}
# What a command without these options means: how the text is read, and which system it trains further.
_UNSAID = {
    "document_separator": Options.document_separator,
    "text_field": Options.text_field,
    "block_size": OWN_TEXT["block_size"],
    **{name: PLAIN[name] for name in ("rows", "masking", "nsp", "sbo")},
}


def before_and_after(history: Sequence[Mapping[str, Any]]) -> str:
    """Held-out losses of the first and the last evaluation in Trainer's `log_history`, a line a head; empty where there
    are not two."""
    evaluations = [log for log in history if "eval_mlm_loss" in log]
    if len(evaluations) < 2 or evaluations[0]["step"] == evaluations[-1]["step"]:
        return ""
    first, last = evaluations[0], evaluations[-1]
    lines = [f"Held-out loss at step {first['step']:,} and at step {last['step']:,}:"]
    for head, what in HEADS.items():
        name = f"eval_{head}_loss"
        if name in first and name in last:
            lines.append(f"  {head.upper()} {first[name]:7.3f} -> {last[name]:6.3f}   {what}")
    return "\n".join(lines)


def next_commands(options: Options) -> str:
    """What can be done with the run's folder."""
    folder = given_path(options.output)
    quoted = place(folder)
    corpus = " ".join(map(place, options.corpus[:2])) + " ..." * (len(options.corpus) > 2)
    again = f"spanbert-pretrain --model {quoted}"
    if options.corpus:
        again += f" --corpus {corpus}"
    again += "".join(f" {word}" for name in _UNSAID for word in _if_not_unsaid(name, getattr(options, name)))
    again += " --output " + place(f"{folder}-further")
    load = f"AutoModelForQuestionAnswering.from_pretrained({str(folder)!r})"
    load += "  # lists both pre-training heads as UNEXPECTED, which is right"
    commands = (
        ("fine-tune it", f"from transformers import AutoModelForQuestionAnswering; model = {load}"),
        ("look at it", f"spanbert-report {quoted}"),
        ("ask it", f"spanbert-fill {quoted} --interactive"),
        ("train it further", again),
    )
    return "\n".join(("What comes next:", *(f"  {title:<18}{command}" for title, command in commands)))


def _if_not_unsaid(name: str, value: Any) -> tuple[str, ...]:
    """The option as words of a command, none where it is what a command without it means, or not resolved."""
    if value is None or value == _UNSAID[name]:
        return ()
    return (flag(name, value),) if isinstance(value, bool) else (option(flag(name), str(value)),)
