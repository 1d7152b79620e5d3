# SPDX-License-Identifier: Apache-2.0
"""What `benchmarks/evidence.py` does: the four systems trained alike, evaluated, and a page of what came of it."""
