"""From text to checkpoints (paper section 4)."""
