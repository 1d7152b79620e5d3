# SPDX-License-Identifier: Apache-2.0
"""`python -m spanbert_ext` prints what the compiled operators were built with and what they use here."""

from __future__ import annotations

import argparse
import sys

import torch

from spanbert_ext import build_info
from spanbert_ext.ops.self_check import self_check

EXAMPLES = """examples:
  python -m spanbert_ext                what was built
  python -m spanbert_ext --check        whether it computes here what plain PyTorch does, on a GPU where there is one
  python -m spanbert_ext --check cpu

Exit status: 0, or 1 where they compute something else.
"""


def check(device: str) -> int:
    """Prints how far the compiled operators are from the plain ones. 1 where that is too far."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        comparisons = self_check(device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        print(f"{device}: {error}", file=sys.stderr)
        return 1
    for one in comparisons:
        print(
            f"{one.what:38} {one.error:8.1e} {'' if one.passed else f'FAILED: more than {one.limit:g}'}".rstrip()
        )
    failed = sum(not one.passed for one in comparisons)
    print(
        f"{device}: {failed or 'none'} of {len(comparisons)} results differ from plain PyTorch's by more than rounding"
    )
    return int(failed > 0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m spanbert_ext",
        description="What the compiled operators were built with and what they use here.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--check",
        nargs="?",
        const="auto",
        metavar="DEVICE",
        help="compare a small step on this device (cpu, cuda, cuda:1) with plain PyTorch",
    )
    given = parser.parse_args(arguments)
    for name, value in build_info().items():
        print(f"{name:18} {value}")
    return check(given.check) if given.check else 0


if __name__ == "__main__":
    sys.exit(main())
