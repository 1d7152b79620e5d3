# SPDX-License-Identifier: Apache-2.0
"""Documents to training rows: tokens, blocks and pairs, and which of them make which update."""
