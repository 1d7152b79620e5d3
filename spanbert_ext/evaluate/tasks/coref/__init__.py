"""Coreference resolution from the boundaries of mentions."""
