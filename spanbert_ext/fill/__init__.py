# SPDX-License-Identifier: Apache-2.0
"""What each head of a model fills into masked spans of a text."""
