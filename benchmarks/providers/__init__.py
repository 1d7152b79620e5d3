# SPDX-License-Identifier: Apache-2.0
"""Who competes: a module for each benchmark, and the modules of those that come from elsewhere."""
