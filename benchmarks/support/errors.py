# SPDX-License-Identifier: Apache-2.0
"""What ends a benchmark, and what leaves a provider out of it."""

from __future__ import annotations


class WrongResult(Exception):
    """A provider does not compute what it should: nothing is timed. Ends a benchmark with exit status 1."""


class Unavailable(Exception):
    """A contestant that cannot run here; the message is the reason that the report shows."""
