# SPDX-License-Identifier: Apache-2.0
"""A corpus that is larger than one machine: spanbert-prepare as a block of a datatrove pipeline.

    python examples/datatrove_prepare.py crawl/ prepared --tokenizer bert-base-cased --tasks 64 --workers 16

Slurm and Ray: give the steps to SlurmPipelineExecutor or RayPipelineExecutor, and call `finish` when they have ended.
A task that was stopped goes on after its last shard. Needs pip install '.[pretrain,datatrove]'.
"""

import argparse
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import ParquetReader

from spanbert_ext.pretrain.prepare.prepare import finish  # these four are not public
from spanbert_ext.pretrain.prepare.write_shards import DOCUMENTS_PER_SHARD, write_shards
from spanbert_ext.pretrain.rows.tokenizer import load_tokenizer
from spanbert_ext.pretrain.text.records import record_documents


class WriteShards(PipelineStep):
    name, type = "Shards of tokenised documents", "WRITER"

    def __init__(self, folder: str, tokenizer: str, per_shard: int) -> None:
        super().__init__()
        self.folder, self.tokenizer, self.per_shard = Path(folder), tokenizer, per_shard

    def run(self, data, rank: int = 0, world_size: int = 1):
        def documents_from(passed):
            texts = (text for document in data for text in record_documents(document.text, document.id))
            yield from ((text, number) for number, text in enumerate(texts, 1) if number > (passed or 0))

        where = {"prefix": f"{rank:05d}-", "per_shard": self.per_shard}
        settings = {"tokenizer": self.tokenizer, "tasks": world_size, **where}
        write_shards(documents_from, self.folder, load_tokenizer(self.tokenizer), settings, **where)
        yield from ()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", help="folder of Parquet files with a column text")
    parser.add_argument("output", help="folder of the shards")
    parser.add_argument("--tokenizer", required=True, help="folder or hub name")
    for name, default in (("--tasks", 2), ("--workers", 1)):
        parser.add_argument(name, type=int, default=default, help=f"(default: {default})")
    parser.add_argument("--documents-per-shard", type=int, default=DOCUMENTS_PER_SHARD)
    options = parser.parse_args()
    Path(options.output).mkdir(parents=True, exist_ok=True)
    write = WriteShards(options.output, options.tokenizer, options.documents_per_shard)
    tasks = {"tasks": options.tasks, "workers": options.workers, "logging_dir": f"{options.output}/logs"}
    LocalPipelineExecutor([ParquetReader(options.corpus), write], **tasks).run()
    print(finish(Path(options.output), load_tokenizer(options.tokenizer), options.tasks)["counts"])


if __name__ == "__main__":
    main()
