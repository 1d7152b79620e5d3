# SPDX-License-Identifier: Apache-2.0
"""From token ids to masked batches (paper section 2.1)."""
