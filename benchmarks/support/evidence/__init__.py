"""What `benchmarks/evidence.py` does: the four systems trained alike, evaluated, and a page of what came of it."""
