"""Downstream evaluation: checkpoints fine-tuned and scored side by side. The command is `spanbert-evaluate`."""
