# SPDX-License-Identifier: Apache-2.0
"""Corpora in, documents out: files and their forms, sentences, phrases."""
