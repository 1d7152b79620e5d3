# SPDX-License-Identifier: Apache-2.0
"""What an evaluation found: scores and differences with their intervals, for the terminal and a page."""
