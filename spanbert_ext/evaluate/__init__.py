# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes and scores checkpoints side by side, with intervals."""
