"""Ensembles and models on disk: sealed manifests, shards, runs that go on after any kill."""
