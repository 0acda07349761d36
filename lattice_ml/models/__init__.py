"""Models that learn an ensemble and draw from it again.

A model is a network beside a `Theory`: what is known or measured of the distribution.  Networks
never hold the theory, so one set of weights serves every volume and every coupling.
"""
