"""From token ids to masked batches (paper section 2.1)."""
