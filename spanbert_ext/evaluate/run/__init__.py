# SPDX-License-Identifier: Apache-2.0
"""An evaluation: its checkpoints, its jobs, and their results on the disk."""
