"""The scalar-field restricted Boltzmann machine: in closed form, and its training."""

from lattice_ml.models.rbm.gaussian import GaussianRBM, gaussian_kl, matmul

__all__ = ["GaussianRBM", "gaussian_kl", "matmul"]
