"""The parts of tune_cuda.py."""
