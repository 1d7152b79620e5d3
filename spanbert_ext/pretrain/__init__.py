# SPDX-License-Identifier: Apache-2.0
"""From text to checkpoints (paper section 4)."""
