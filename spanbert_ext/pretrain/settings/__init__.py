# SPDX-License-Identifier: Apache-2.0
"""What a run is asked to do: options, the recipes of the paper, sizes, their checks."""
