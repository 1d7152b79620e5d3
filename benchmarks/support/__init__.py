"""What the benchmarks share: clock, machine, memory, problems, runners and reports. Knows no provider and no script."""
