"""Chains in memory: the one compiled program, warm-up and production."""
