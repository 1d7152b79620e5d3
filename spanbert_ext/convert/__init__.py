# SPDX-License-Identifier: Apache-2.0
"""Published checkpoints in and out: from a file, by the table of names, to a model, and back."""
