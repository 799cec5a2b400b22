"""Benchmarks: sandboxrun beside what it is measured by, as ratios in one run. `make bench`; see docs/performance.md.

Never a test: nothing fails for being slow.
"""
