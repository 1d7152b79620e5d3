"""Fine-tunes and scores checkpoints side by side, with intervals."""
