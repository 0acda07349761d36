"""Which axis of a foreign array is which: samples, chains, space, and axes of length one.

An array of fields has the axes of the lattice, in their order, and beside them at most one that
counts samples and one that counts chains.  Programs disagree on where: ArviZ has (chain, draw, *L),
TensorFlow Probability (draw, chain, *L), Julia by custom (*L, sample), and networks keep axes of
length one for channels.  No extent of a lattice is one, so that those are left out.

What is named decides: the lattice's shape, or the axes.  Otherwise samples are on the customary
axis, the first in the order of C and the last in Julia's, but only where that is clear: all other
extents are equal, or on two axes it is so long that it can be no side of a lattice.  Anything else,
such as four axes of unequal extents, is refused with its readings, because the wrong one would be
an ensemble of another theory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from lattice_ml.storage.files import StorageError

__all__ = ["Axes", "Reading", "read_axes"]

_MOST = 4  # dimensions of a lattice
_ASPECT = 8  # an axis so many times longer than all others counts samples


@dataclass(frozen=True)
class Reading:
    """What the axes of an array mean.

    Attributes:
        extents: of the array.
        sample: the axis that counts samples; None of one configuration.
        chain: the axis that counts chains; None where they are not apart.
        lattice: the axes of space.
    """

    extents: tuple[int, ...]
    sample: int | None
    chain: int | None
    lattice: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one configuration."""
        return tuple(self.extents[axis] for axis in self.lattice)

    @property
    def n_configs(self) -> int:
        """Samples along their axis."""
        return 1 if self.sample is None else self.extents[self.sample]

    @property
    def n_chains(self) -> int:
        """Chains along their axis."""
        return 1 if self.chain is None else self.extents[self.chain]

    @property
    def dropped(self) -> tuple[int, ...]:
        """Axes of length one that mean nothing."""
        used = {self.sample, self.chain, *self.lattice}
        return tuple(axis for axis in range(len(self.extents)) if axis not in used)

    def __str__(self) -> str:
        lattice = f"a {len(self.shape)}d lattice {' x '.join(map(str, self.shape))}"
        if self.chain is not None:
            sample = "none" if self.sample is None else self.sample
            named = f"--chain-axis {self.chain} --sample-axis {sample}"
            return f"{self.n_chains} chains x {self.n_configs} samples of {lattice} ({named})"
        if self.sample is None:
            return f"one configuration of {lattice} (--sample-axis none)"
        return f"{self.n_configs} samples of {lattice} (--sample-axis {self.sample})"


@dataclass(frozen=True)
class Axes:
    """What is known of the axes of an array beside their extents.

    Attributes:
        sample: the axis that counts samples, or "none" of one configuration.
        chain: the axis that counts chains.
        shape: of the lattice.
        last: whether samples are by custom on the last axis and not on the first.
    """

    sample: int | Literal["none"] | None = None
    chain: int | None = None
    shape: tuple[int, ...] | None = None
    last: bool = False


def read_axes(said: str, extents: tuple[int, ...], known: Axes) -> Reading:
    """Read the axes of an array, where there is no doubt.

    Args:
        said: opens the messages, such as "a.npy has shape (3, 4)".
        extents: of the array.
        known: what is known of its axes; negative ones count from the end.

    Raises:
        StorageError: there is no reading, or there are several, which are listed.
    """
    if 0 in extents:
        raise StorageError(f"{said} and so holds no numbers")
    chain = _place(said, "chain", known.chain, extents)
    sample = known.sample
    if sample != "none":
        sample = _place(said, "sample", sample, extents)
    if chain is not None and sample == chain:
        raise StorageError(f"{said}: axis {chain} cannot count samples and chains")
    known = Axes(sample, chain, known.shape, known.last)
    if known.shape is not None:
        found = list(_of_shape(extents, known, known.shape))
        if not found:
            raise StorageError(f"{said}{_misfit(extents, known, known.shape)}")
    else:
        found = _readings(extents, known)
    named = sample is not None or known.shape is not None
    if len(found) == 1 and (named or found[0].sample is not None):
        return found[0]
    if len(found) <= 1:
        ways = "".join(f", or {reading}" for reading in found)
        raise StorageError(f"{said}; asked for one axis of samples and 1 to 4 of space{ways}")
    remedy = "say which" if known.shape else "say which, or the lattice with --shape"
    ways = "; ".join(map(str, found))
    raise StorageError(f"{said}, which can be read in several ways: {ways}; {remedy}")


def _place(said: str, what: str, axis: int | None, extents: Sequence[int]) -> int | None:
    """An axis as counted from the front."""
    if axis is None:
        return None
    if not -len(extents) <= axis < len(extents):
        raise StorageError(f"{said}, so no {what} axis {axis}")
    return axis % len(extents)


def _of_shape(extents: tuple[int, ...], known: Axes, shape: tuple[int, ...]) -> Iterator[Reading]:
    """All readings with configurations of a shape."""
    free = [axis for axis in range(len(extents)) if axis not in (known.sample, known.chain)]
    sample = None if known.sample == "none" else known.sample
    for lattice in combinations(free, len(shape)):
        if tuple(extents[axis] for axis in lattice) != shape:
            continue
        rest = [axis for axis in free if axis not in lattice and extents[axis] > 1]
        if not rest:
            yield Reading(extents, sample, known.chain, lattice)
        elif len(rest) == 1 and known.sample is None:
            yield Reading(extents, rest[0], known.chain, lattice)
        elif len(rest) == 1 and sample is not None and known.chain is None:
            yield Reading(extents, sample, rest[0], lattice)
        elif len(rest) == 2 and known.sample is known.chain is None:
            for first, second in (rest, rest[::-1]):
                yield Reading(extents, second, first, lattice)


def _misfit(extents: tuple[int, ...], known: Axes, shape: tuple[int, ...]) -> str:
    """What is wrong with a shape that no reading has, and what would fit."""
    free = Axes(shape=shape, last=known.last)
    fitting = [found for found in _of_shape(extents, free, shape) if found.chain is None]
    fits = [found.sample for found in fitting if found.sample is not None]
    remedy = f"sample axis {fits[0]} would fit" if fits else "no other sample axis fits"
    got = ", "
    if isinstance(known.sample, int):
        for found in _readings(extents, Axes(known.sample, known.chain)):
            got = f": with sample axis {known.sample} a configuration is {found.shape}, "
    return f"{got}but lattice.shape asks for {shape}; {remedy}"


def _readings(extents: tuple[int, ...], known: Axes) -> list[Reading]:
    """The reading that is clear without the lattice's shape, or those that are in doubt."""
    chain = known.chain
    named = (known.sample, chain)
    space = tuple(a for a, extent in enumerate(extents) if extent > 1 and a not in named)
    if known.sample is not None:
        sample = None if known.sample == "none" else known.sample
        return [Reading(extents, sample, chain, space)] if 1 <= len(space) <= _MOST else []
    others = [axis for axis in range(len(extents)) if axis != chain]
    if not space or not others:
        return []
    lead = others[-1 if known.last else 0]  # the customary axis

    def counting(sample: int) -> Reading:
        return Reading(extents, sample, chain, tuple(axis for axis in space if axis != sample))

    customary = space[-1 if known.last else 0]
    if extents[lead] == 1 and _equal(extents, space):
        found = [counting(lead)]
    elif clear := _clear(extents, space, customary, lead, chain is not None):
        found = [counting(clear[0])]
    else:
        found = _doubtful(extents, known, space, lead)
    return [reading for reading in found if 1 <= len(reading.lattice) <= _MOST]


def _clear(
    extents: Sequence[int], space: Sequence[int], customary: int, lead: int, chain_known: bool
) -> list[int]:
    """The axis that counts samples, of those longer than one, where there is no doubt; or none.

    Args:
        extents: of the array.
        space: axes longer than one that are not named.
        customary: the one of them that counts samples by custom.
        lead: the one of all axes that does.
        chain_known: whether the axis of chains is.
    """

    def longest(axis: int) -> bool:
        return extents[axis] > _ASPECT * max(extents[other] for other in space if other != axis)

    cubes = _cubes(extents, space)
    if len(space) < 2:
        return []
    if len(space) == 2 or lead != customary:  # on two axes the other one alone is a cube
        return [customary] if customary in cubes and longest(customary) else []
    if cubes == [customary] or (chain_known and not cubes):
        return [customary]
    ends = (space[0], space[-1])
    return [axis for axis in cubes if len(cubes) == 1 and axis in ends and longest(axis)]


def _doubtful(
    extents: tuple[int, ...], known: Axes, space: tuple[int, ...], lead: int
) -> list[Reading]:
    """The readings that somebody may have meant."""
    chain, found = known.chain, []
    customary = space[-1 if known.last else 0]
    counting = {customary, *(_cubes(extents, space) if len(space) > 2 else space)}
    if extents[lead] == 1:
        counting.add(lead)
    for sample in sorted(counting):
        lattice = tuple(axis for axis in space if axis != sample)
        found.append(Reading(extents, sample, chain, lattice))
    if chain is None and len(space) > 2:
        pair = space[-2:] if known.last else space[:2]
        lattice = tuple(axis for axis in space if axis not in pair)
        found += [Reading(extents, s, c, lattice) for c, s in (pair, pair[::-1])]
    return [*found, *[Reading(extents, None, chain, space)] * (extents[lead] > 1)]


def _cubes(extents: Sequence[int], space: Sequence[int]) -> list[int]:
    """Axes without which all extents are equal."""
    return [a for a in space if _equal(extents, [other for other in space if other != a])]


def _equal(extents: Sequence[int], axes: Sequence[int]) -> bool:
    return len({extents[axis] for axis in axes}) == 1
