"""What the JSON of each verb looks like, by which a file is known that may be written anew."""

from lattice_ml.runtime.results import has_keys, of_entries

__all__ = ["CERTIFICATES", "ESTIMATES", "EXTRAPOLATION", "FORECASTS", "RECORDS"]

_NUMBERS = {"value", "error", "tau_int", "tau_int_error"}


def _is_estimates(found: object) -> bool:
    """Whether this is {observable: None or numbers}, with one that has all of them at least."""
    if not isinstance(found, dict):
        return False
    known = [entry for entry in found.values() if entry is not None]
    tables = all(isinstance(entry, dict) and "value" in entry for entry in known)
    return tables and any(entry.keys() >= _NUMBERS for entry in known)


def _is_certificates(found: object) -> bool:
    keys = {"name", "verdict", "value"}
    return isinstance(found, list) and all(isinstance(c, dict) and c.keys() >= keys for c in found)


ESTIMATES = of_entries(_is_estimates)  # of `measure`, by ensemble
CERTIFICATES = of_entries(_is_certificates)  # of `check`, by ensemble
EXTRAPOLATION = has_keys("sampler", "order", "step_sizes", "observables")
RECORDS = of_entries(has_keys("benchmark", "rows", "machine"))  # of `bench`, by name
FORECASTS = of_entries(has_keys("directory", "devices", "memory", "disk"))  # of a dry run
