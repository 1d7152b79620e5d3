# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: clock, machine, memory, problems, runners, reports. Imports no provider and no script."""
