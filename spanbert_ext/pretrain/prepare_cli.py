# SPDX-License-Identifier: Apache-2.0
"""`spanbert-prepare`: raw text in, shards of tokenised documents out."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from spanbert_ext.files.messages import CommandParser
from spanbert_ext.files.output import lasting_output
from spanbert_ext.files.packages import missing_packages
from spanbert_ext.files.paths import given_path
from spanbert_ext.files.signals import signal_of, signals_stop
from spanbert_ext.pretrain.settings.common_options import (
    add_corpus_options,
    add_output_options,
    add_vocabulary_options,
)
from spanbert_ext.pretrain.settings.masking_options import CANDIDATES
from spanbert_ext.pretrain.text.corpus_names import typed

DESCRIPTION = """Splits text into sentences and tokens, once, on every core, and writes them as shards with a manifest:
what spanbert-pretrain --corpus DIR then reads. The shards are the same bytes for the same text, whatever the number
of processes. A preparation that was stopped goes on when it is called again as before."""

EXAMPLES = """examples:
  spanbert-prepare --corpus wiki/ 'books/*.txt.gz' --tokenizer bert-base-cased --output prepared
  spanbert-prepare --corpus crawl/*.jsonl.zst --text-field content --output prepared
  spanbert-prepare --corpus dataset:wikimedia/wikipedia@20231101.en --tokenizer bert-base-cased
  spanbert-pretrain --corpus prepared --model base

The output folder holds shard-*.arrow, manifest.json (versions, counts, checksums), the folder tokenizer, report.md
and lengths.png. Exit status: 0 done, 2 a mistake that you can correct, 128 + signal when stopped.
"""


def build_parser() -> argparse.ArgumentParser:
    """Every option defaults to SUPPRESS: the namespace holds the user's options, `PrepareOptions` the defaults."""
    parser = CommandParser(
        prog="spanbert-prepare",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument_group("text").add_argument
    add_corpus_options(add, required=True)

    add = parser.add_argument_group("tokens").add_argument
    add_vocabulary_options(
        add,
        tokenizer="a cased WordPiece trained on the corpus",
        vocab_size=" (default: 28996)",
        unused_ids="100",
    )
    add(
        "--phrases",
        choices=CANDIDATES,
        help="look for these too, which spanbert-pretrain --masking of the same name needs (noun-phrases: pip install"
        " 'spanbert-ext[phrases]'; default: none)",
    )

    add = parser.add_argument_group("output").add_argument
    add_output_options(
        add, output="the shards (default: prepared)", overwrite="prepared corpus in --output and begin anew"
    )
    add("--documents-per-shard", type=int, metavar="N", help="documents in a file (default: 4096)")
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes; the shards do not depend on it (default: a core each)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 for what the user can correct, 128 + signal when stopped."""
    with lasting_output():
        return _command(arguments)


def _command(arguments: Sequence[str] | None) -> int:
    given = vars(build_parser().parse_args(arguments))
    if missing := missing_packages("pretrain"):
        print(f"spanbert-prepare: error: {missing}", file=sys.stderr)
        return 2
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # else it warns when workers start
    from spanbert_ext.files.disk import DiskError  # only now: --help answers at once
    from spanbert_ext.files.lock import InUse
    from spanbert_ext.pretrain.prepare.prepare import PrepareOptions, prepare
    from spanbert_ext.pretrain.prepare.summary import REPORT
    from spanbert_ext.pretrain.rows.tokenizer import TokenizerError
    from spanbert_ext.pretrain.text.text_files import CorpusError

    options = PrepareOptions(**given)
    try:
        with signals_stop():
            prepare(options)
    except (CorpusError, TokenizerError, DiskError, InUse, ImportError, OSError) as error:
        print(f"spanbert-prepare: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(
            "\nStopped. The shards that are finished are kept: call spanbert-prepare as before, and it goes on.",
            file=sys.stderr,
        )
        return 128 + signal_of(stop)
    folder = given_path(options.output)
    with contextlib.suppress(FileNotFoundError):  # a finished corpus is whole without its report
        print((folder / REPORT).read_text(encoding="utf-8"), end="")
    print(f"Train on it: spanbert-pretrain --corpus {typed(folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
