# SPDX-License-Identifier: Apache-2.0
"""Coreference resolution from the boundaries of mentions."""
