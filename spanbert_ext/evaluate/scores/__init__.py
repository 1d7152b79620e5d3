# SPDX-License-Identifier: Apache-2.0
"""Scores: what an item contributes is a row of numbers, and a metric is a function of rows."""
