# SPDX-License-Identifier: Apache-2.0
"""One run: what is loaded, trained, saved and said, in the order of `train.py`."""
