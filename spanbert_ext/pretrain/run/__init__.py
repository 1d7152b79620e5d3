"""One run: what is loaded, trained, saved and said, in the order of `train.py`."""
