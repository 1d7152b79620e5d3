"""An evaluation: its checkpoints, its jobs, and their results on the disk."""
