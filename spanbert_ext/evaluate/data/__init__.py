# SPDX-License-Identifier: Apache-2.0
"""Readers of the downstream tasks' files: plain Python records, checked against the text that they point into."""
