# SPDX-License-Identifier: Apache-2.0
"""The tasks that checkpoints are evaluated on: each has the form of `form.py`, and a row in `registry.py`."""
