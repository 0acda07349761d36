"""What one test says of an ensemble, and what all of them say together."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Certificate", "Verdict", "verdict"]

Verdict = Literal["pass", "fail", "undecided"]


@dataclass(frozen=True)
class Certificate:
    """One test of an ensemble; prints as one line.

    Attributes:
        name: which test.
        verdict: "fail" where a correct ensemble would look like this too rarely, "undecided" where
            the ensemble is too little to tell, "not applicable" where the test is not for its kind.
        value: what was found.
        p_value: probability of as much or more in a correct ensemble; nan where nothing was judged.
        meaning: what the verdict says about the ensemble, or why there is none.
    """

    name: str
    verdict: Literal["pass", "fail", "undecided", "not applicable"]
    value: str
    p_value: float
    meaning: str

    def __str__(self) -> str:
        found = f"{self.value} (p = {self.p_value:.2g}): " if self.value else ""
        return f"{self.verdict:<16}{self.name:<20}{found}{self.meaning}"


def verdict(certificates: Iterable[Certificate]) -> Verdict:
    """What the certificates of an ensemble say together.

    Returns:
        "fail" where one fails; else "undecided" where one is, or where no test was for this
        ensemble; else "pass".
    """
    found = {certificate.verdict for certificate in certificates}
    if "fail" in found:
        return "fail"
    return "pass" if "pass" in found and "undecided" not in found else "undecided"
