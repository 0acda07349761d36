"""Certificates: tests that an ensemble must pass on its own, without a reference."""

from lattice_ml.analysis.certificates.certificate import Certificate, verdict
from lattice_ml.analysis.certificates.suite import FALSE_ALARM_RATE, certify, check

__all__ = ["FALSE_ALARM_RATE", "Certificate", "certify", "check", "verdict"]
