"""Lattices, how fields lie in memory, their Fourier modes and their random numbers."""
