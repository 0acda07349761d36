"""Markov-chain updates: one algorithm per module, each a `Sampler`; `kinds` has them by name."""
