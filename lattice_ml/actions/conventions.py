r"""The named conventions of phi^4 theory and the exact maps between them.

Each convention has two parameters and fixes the normalisation of its field.  With V sites,

    kappa       -2 kappa sum phi phi' + (1 - 2 lam) phi^2 + lam phi^4     h = 2 kappa
    beta        -beta sum phi phi' + phi^2 + lam (phi^2 - 1)^2            h = beta, constant lam
    standard    1/2 (d phi)^2 + 1/2 m^2 phi^2 + g phi^4                   h = 1
    standard24  1/2 (d phi)^2 + 1/2 m^2 phi^2 + lam/4! phi^4              h = 1
    nohalf      (d phi)^2 + m^2 phi^2 + lam phi^4                         h = 2

A field is rescaled by phi = s phi': then h' = s^2 h, a' = s^2 a, b' = s^4 b,
log Z' = log Z - V log s and log_prob' = log_prob + V log s.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lattice_ml.actions import (
    Action,
    FreeField,
    Phi4,
    Quartic,
    check_dimension,
    hopping_scale,
    number,
)
from lattice_ml.fields.types import Scalar
from lattice_ml.runtime.json import JsonTable, Section

__all__ = [
    *("CONVENTIONS", "KINDS", "NONE", "Convention", "Kind", "Parameter"),
    *("action", "convert", "coupling", "describe", "from_config", "parameters", "section"),
]

NONE = "none"  # the kind of data whose action is not known, such as images


@dataclass(frozen=True)
class Convention:
    """Two parameters, their map to (h, a, b) in d dimensions, and the map back.

    Attributes:
        keys: names of the two parameters.
        couplings: `(d, p, q) -> (h, a, b)`.
        invert: `(d, h, a, b) -> (p, q)` for couplings in this convention's normalisation.
        scale_squared: s^2 of the field rescaling that brings any (h, a, b) to it.
        constant: `(p, q) ->` the constant per site that (h, a, b) leaves out.
    """

    keys: tuple[str, str]
    couplings: Callable[[int, Scalar, Scalar], tuple[Scalar, Scalar, Scalar]]
    invert: Callable[[int, Scalar, Scalar, Scalar], tuple[Scalar, Scalar]]
    scale_squared: Callable[[float, float, float], float]
    constant: Callable[[float, float], float] = lambda p, q: 0.0


CONVENTIONS: dict[str, Convention] = {
    "kappa": Convention(
        ("kappa", "lam"),
        lambda d, kappa, lam: (2 * kappa, 1 - 2 * lam, lam),
        lambda d, h, a, b: (h / 2, b),
        lambda h, a, b: hopping_scale(a, b),
    ),
    "beta": Convention(
        ("beta", "lam"),
        lambda d, beta, lam: (beta, 1 - 2 * lam, lam),
        lambda d, h, a, b: (h, b),
        lambda h, a, b: hopping_scale(a, b),
        lambda beta, lam: lam,
    ),
    "standard": Convention(
        ("mass_squared", "g"),
        lambda d, mass_squared, g: (1.0, d + mass_squared / 2, g),
        lambda d, h, a, b: (2 * (a - d), b),
        lambda h, a, b: 1 / h,
    ),
    "standard24": Convention(
        ("mass_squared", "lam"),
        lambda d, mass_squared, lam: (1.0, d + mass_squared / 2, lam / 24),
        lambda d, h, a, b: (2 * (a - d), 24 * b),
        lambda h, a, b: 1 / h,
    ),
    "nohalf": Convention(
        ("mass_squared", "lam"),
        lambda d, mass_squared, lam: (2.0, 2 * d + mass_squared, lam),
        lambda d, h, a, b: (a - 2 * d, b),
        lambda h, a, b: 2 / h,
    ),
}


@dataclass(frozen=True)
class Kind:
    """What `action.kind` names: a class, whose fields are the keys, or those of its conventions."""

    cls: type[Action]
    conventions: Mapping[str, Convention] = field(default_factory=dict)


KINDS = {"Phi4": Kind(Phi4, CONVENTIONS), "FreeField": Kind(FreeField)}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a convention as what varies between actions; see `samplers.replica`."""

    convention: str
    name: str
    ndim: int

    def of(self, phi4: Phi4) -> float:
        """The value that an action has."""
        return parameters(phi4, self.convention, self.ndim)[self.name]

    def at(self, phi4: Phi4, value: Scalar) -> Phi4:
        """The action with another value, unchecked; all may be traced."""
        known = CONVENTIONS[self.convention]
        values = zip(known.keys, known.invert(self.ndim, *phi4.couplings()), strict=True)
        changed = [value if key == self.name else old for key, old in values]
        return Phi4(*known.couplings(self.ndim, changed[0], changed[1]), ndim=phi4.ndim)

    def __str__(self) -> str:
        return self.name


def action(convention: str, ndim: int, **values: float) -> Phi4:
    """Build `Phi4` from a named convention, e.g. `action("kappa", 2, kappa=0.27, lam=0.022)`.

    Raises:
        ValueError: unknown convention, wrong parameters, or an action that is not bounded below
            in `ndim` dimensions, 1 to 4.
    """
    keys = _lookup(convention).keys
    if set(values) != set(keys):
        raise ValueError(
            f"convention {convention!r} takes {keys[0]} and {keys[1]}, got {sorted(values)}"
        )
    if ndim not in (1, 2, 3, 4):
        raise ValueError(f"an action lives in 1 to 4 dimensions, got {ndim!r}")
    p, q = (number(f"action.{key}", values[key]) for key in keys)
    h, a, b = map(float, CONVENTIONS[convention].couplings(ndim, p, q))
    phi4 = Phi4(h, a, b, ndim=ndim)
    phi4.check(ndim)
    written = {"kind": "Phi4", "convention": convention, keys[0]: p, keys[1]: q}
    object.__setattr__(phi4, "written", written)  # of this object: see `section`
    return phi4


def from_config(section: Section, ndim: int) -> Action | None:
    """Build the action that a config's `[action]` section describes; None of the kind "none".

    Raises:
        ValueError: unknown kind or convention, or couplings that do not define a theory.
    """
    values = dict(section)
    kind = values.pop("kind")
    if kind == NONE:
        return None
    if kind not in KINDS:
        raise ValueError(f"action.kind must be one of {', '.join(KINDS)}, {NONE}, got {kind!r}")
    if KINDS[kind].conventions:
        return action(values.pop("convention"), ndim, **values)
    return KINDS[kind].cls.from_config(values, ndim)


def section(action: Action | None, ndim: int) -> JsonTable:
    """The `[action]` section that describes an action; `from_config` is the inverse.

    What `action` made has the couplings that it was made of.  Of a `Phi4` in (h, a, b) it has those
    with the fewest figures that give (h, a, b), in the first convention whose normalisation it has.

    Raises:
        ValueError: an action that no config can name.
    """
    if action is None:
        return {"kind": NONE}
    kind = type(action).__name__
    if kind not in KINDS or KINDS[kind].cls is not type(action):
        raise ValueError(
            f"a directory holds ensembles of the actions {', '.join(KINDS)}, which can be read "
            f"without your source, got {kind}: `run` keeps its chains in memory"
        )
    action.check(ndim)
    if not isinstance(action, Phi4):
        own = {name: float(value) for name, value in vars(action).items() if name != "ndim"}
        return {"kind": kind, **own}
    if written := vars(action).get("written"):
        return dict(written)
    for convention, known in CONVENTIONS.items():
        try:
            values = parameters(action, convention, ndim)
        except ValueError:
            continue
        couplings = tuple(map(float, action.couplings()))
        for figures in range(1, 18):
            p, q = (float(f"{value:.{figures}g}") for value in values.values())
            if known.couplings(ndim, p, q) == couplings:
                break
        return {"kind": kind, "convention": convention, known.keys[0]: p, known.keys[1]: q}
    raise ValueError(
        f"{action} is not normalised as any convention of a config; convert(action, 'kappa', "
        f"{ndim}) gives one that is, and the scale of its field"
    )


def coupling(section: Section, name: str, ndim: int) -> Parameter | str:
    """What the key `name` of an `[action]` section varies, for samplers that need several actions.

    Raises:
        ValueError: the section has no such number.
    """
    known = [key for key in section if key not in ("kind", "convention")]
    if name not in known:
        raise ValueError(f"sampler.coupling must be one of {', '.join(known)}, got {name!r}")
    return Parameter(section["convention"], name, ndim) if "convention" in section else name


def describe(section: Section, ndim: int) -> list[str]:
    """Lines that say what an `[action]` section means: its own words, (h, a, b), the kappa form."""
    built = from_config(section, ndim)
    if built is None:
        return ["none: the action of these fields is not known"]
    own = ", ".join(f"{key} = {value}" for key, value in section.items())
    if not isinstance(built, Quartic):
        return [own]
    h, a, b = built.couplings()
    lines = [own, f"h = {h:.12g}, a = {a:.12g}, b = {b:.12g} (this part is what is measured)"]
    if conventions := KINDS[section["kind"]].conventions:
        known = conventions[section["convention"]]
        constant = known.constant(*(section[key] for key in known.keys))
        lines.append(f"constant per site left out: {constant:.12g}")
    hopping, scale = convert(Phi4(h, a, b), "kappa", ndim)
    kappa, lam = parameters(hopping, "kappa", ndim).values()
    lines.append(
        f"kappa form: kappa = {kappa:.12g}, lam = {lam:.12g}, phi = {scale:.12g} phi_kappa"
    )
    return lines


def parameters(phi4: Phi4, convention: str, ndim: int) -> Mapping[str, float]:
    """Read off the parameters of an action that is already in `convention`'s normalisation.

    Raises:
        ValueError: the field must be rescaled first; see `convert`.
    """
    check_dimension(phi4, ndim)
    known = _lookup(convention)
    couplings = tuple(map(float, phi4.couplings()))
    values = tuple(map(float, known.invert(ndim, *couplings)))
    if not all(
        math.isclose(float(x), y, rel_tol=1e-12, abs_tol=1e-12)
        for x, y in zip(known.couplings(ndim, *values), couplings, strict=True)
    ):
        raise ValueError(
            f"(h, a, b) = {couplings} is not normalised as convention {convention!r}; "
            "convert() gives the field scale"
        )
    return dict(zip(known.keys, values, strict=True))


def convert(phi4: Phi4, convention: str, ndim: int) -> tuple[Phi4, float]:
    """Rescale the field into `convention`: the new action and s, where phi_old = s phi_new.

    Raises:
        ValueError: h <= 0 has no form with h = 1 or 2, a and b may have none with a = 1 - 2b.
    """
    check_dimension(phi4, ndim)
    h, a, b = map(float, phi4.couplings())
    known = _lookup(convention)
    if h <= 0 and convention in ("standard", "standard24", "nohalf"):
        raise ValueError(f"convention {convention!r} needs a positive hopping term, got {h = }")
    if convention in ("kappa", "beta") and not (b > 0 or (a > 0 and a * a + 8 * b >= 0)):
        raise ValueError(
            f"convention {convention!r} needs b > 0, or a > 0 and a^2 + 8 b >= 0, "
            f"got {a = } and {b = }"
        )
    squared = known.scale_squared(h, a, b)
    values = known.invert(ndim, squared * h, squared * a, squared**2 * b)
    new = Phi4(*known.couplings(ndim, *values), ndim=ndim)
    return new, math.sqrt(squared)


def _lookup(convention: str) -> Convention:
    if convention not in CONVENTIONS:
        raise ValueError(
            f"action.convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}"
        )
    return CONVENTIONS[convention]
