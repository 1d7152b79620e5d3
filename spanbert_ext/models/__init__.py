# SPDX-License-Identifier: Apache-2.0
"""The encoder with both heads (paper section 2.2)."""
