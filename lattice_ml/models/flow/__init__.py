"""A multiscale flow with an exact density."""
