"""The encoder with both heads (paper section 2.2)."""
