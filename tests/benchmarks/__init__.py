"""Ratios of running times on the machine at hand; no timed tests."""
