"""Score-based diffusion models: theory, networks, training, reversal, density."""
