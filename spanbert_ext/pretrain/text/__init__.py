"""Corpora in, documents out: files and their forms, sentences, phrases."""
