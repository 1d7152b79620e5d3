# SPDX-License-Identifier: Apache-2.0
"""How sure a score and a difference of scores are."""
