r"""phi^4 theory on small lattices by the transfer matrix.

Cut along the longest axis, of L slices with n sites each.  With Gauss quadrature of k nodes for
every site, slices have k^n states s, and

    T(s, s') = w(s)^{1/2} exp(h sum_x phi_x phi'_x) w(s')^{1/2},   Z = Tr T^L,

w holding site terms, the links within the slice and the weights of the nodes.  In the eigenbasis
of T, the two-point functions of slices and Tr (T^{1/2} e^{i theta Phi} T^{1/2})^L, the
characteristic function of M, are products of small matrices.  The latter at theta = k pi / R
gives the whole law of M if |M| > R never happens; R is near where that begins, so that few k are
needed for two narrow wells, and k ends where the nodes are too far apart for such waves.

The nodes are those of the weight exp(-(a - c h) phi^2 - b phi^4): the nearer that is to what a site
does between its neighbours, the fewer are needed; c is chosen where two small sets of nodes agree
best.  4 x 4 sites with 7 nodes know <phi^2> to 1e-8 at kappa = 0.2, lam = 0.022, to 1e-6 at
kappa = 0.3, lam = 0.5, and to 2e-4 at the critical kappa = 0.2705, lam = 0.022.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.types import Floats

__all__ = ["SmallLattice", "solve"]

_NODES = {1: 40, 2: 18, 3: 10, 4: 7}  # per site, by the sites of a slice
_SHIFTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)  # c of the module's docstring
_KEPT, _FEWEST = 1e-6, 100  # smallest eigenvalue of T beside the largest; modes kept in any case
_REACH = 7.0  # standard deviations of M
_WELLS = 8.0  # widths of a well beyond its centre
_FIRST, _WAVES, _VANISHED = 24, 4.0, 1e-11  # at first; per R / width, where Gaussians take 2.3


@dataclass(frozen=True)
class SmallLattice:
    """What the transfer matrix gives."""

    n_nodes: int  # quadrature nodes a site
    log_z: float  # logarithm of Z
    two_point: Floats  # G(p), `(*L)` in FFT order
    phi4: float  # <phi^4>
    reach: float  # R, beyond which M never is
    characteristic: Floats  # <exp(i k pi M / R)>, k = 1, 2, ..., until it vanishes

    def absolute_moment(self) -> float:
        """<|M|>, by the Fourier series of |x| on [-R, R]."""
        k = np.arange(1, len(self.characteristic) + 1)
        odd = k % 2 == 1
        series = np.sum(self.characteristic[odd] / k[odd] ** 2)
        return self.reach * (0.5 - 4 / math.pi**2 * float(series))

    def fourth_moment(self, second: float) -> float:
        """<M^4>, by the Fourier series of x^4 on [-R, R], given <M^2>.

        x^4 - 2 R^2 x^2 is smooth where the interval closes, so that its series converges as k^-4.
        """
        r, k = self.reach, np.arange(1, len(self.characteristic) + 1)
        signs = np.where(k % 2, -1.0, 1.0)
        smooth = np.sum(signs * self.characteristic / (math.pi * k) ** 4)
        return 2 * r**2 * second - 7 / 15 * r**4 - 48 * r**4 * float(smooth)

    def cumulative(self, n: int = 1025) -> tuple[Floats, Floats]:
        """x and P(M <= x), `(n,)` each."""
        x = np.linspace(-self.reach, self.reach, n)
        k = np.arange(1, len(self.characteristic) + 1)
        waves = np.sin(np.pi / self.reach * x[:, None] * k)
        return x, 0.5 + 0.5 * x / self.reach + waves @ (self.characteristic / (np.pi * k))


def solve(lattice: Lattice, h: float, a: float, b: float) -> tuple[SmallLattice, SmallLattice]:
    """The solution, and a coarser one to tell its error.

    Raises:
        ValueError: slices of more than 4 sites.
    """
    axis = lattice.longest_axes[0]
    across = lattice.shape[:axis] + lattice.shape[axis + 1 :]
    sites = math.prod(across)
    if sites not in _NODES:
        raise ValueError(
            f"phi^4 is solved on lattices whose extents but the longest have at most "
            f"{max(_NODES)} sites together, such as 4 x 8, got "
            f"{' x '.join(map(str, lattice.shape))}"
        )
    nodes, extent = _NODES[sites], lattice.shape[axis]

    def roughness(shift: float) -> float:
        fine, coarse = (
            _Slices(across, h, a, b, shift, nodes - fewer).log_z(extent) for fewer in (2, 3)
        )
        return abs(fine - coarse)

    shift = min(_SHIFTS, key=roughness)
    fine, coarse = (
        _Slices(across, h, a, b, shift, n).solve(axis, extent) for n in (nodes, nodes - 1)
    )
    trusted = _common(fine.characteristic, coarse.characteristic)
    return (  # the coarse one has fewer waves too: what the last ones change is part of the error
        replace(fine, characteristic=fine.characteristic[:trusted]),
        replace(coarse, characteristic=coarse.characteristic[: -(-3 * trusted // 4)]),
    )


class _Slices:
    """States of a slice and the transfer matrix between them, divided by exp(log_scale)."""

    def __init__(
        self, across: tuple[int, ...], h: float, a: float, b: float, shift: float, n_nodes: int
    ) -> None:
        self.across, self.n_nodes, self.sites = across, n_nodes, math.prod(across)
        nodes, log_weights = _gauss(n_nodes, a - shift * h, b)
        states = np.indices((n_nodes,) * self.sites).reshape(self.sites, -1)
        self.phi = nodes[states]  # (sites, n_states)
        fields = self.phi.reshape(*across, -1)
        links = sum((fields * np.roll(fields, 1, mu) for mu in range(len(across))), 0 * fields)
        links = links.reshape(self.sites, -1).sum(axis=0)
        half = 0.5 * ((log_weights - shift * h * nodes**2)[states].sum(axis=0) + h * links)
        exponent = h * (self.phi.T @ self.phi) + half[:, None] + half
        self.log_scale = float(exponent.max())
        self.matrix: Floats = np.exp(exponent - self.log_scale)

    def log_z(self, extent: int) -> float:
        eigenvalues = np.concatenate([np.linalg.eigvalsh(block) for block in self._blocks()])
        return extent * self.log_scale + math.log(float(np.sum(eigenvalues**extent)))

    def solve(self, axis: int, extent: int) -> SmallLattice:
        """All that is asked of a lattice of `extent` such slices along `axis`."""
        eigenvalues, basis, odd = self._modes()
        largest = float(np.abs(eigenvalues).max())
        order = np.argsort(-np.abs(eigenvalues))
        kept = order[: max(_FEWEST, int(np.sum(np.abs(eigenvalues) > _KEPT * largest)))]
        eigenvalues, basis, odd = eigenvalues[kept] / largest, basis[:, kept], odd[kept]
        z = float(np.sum(eigenvalues**extent))
        probability = basis**2 @ eigenvalues**extent / z  # of the states of a slice
        two_point = self._two_point(eigenvalues, basis, extent, z, probability)
        variance = float(two_point.ravel()[0]) / (extent * self.sites)
        wide = _REACH * math.sqrt(variance)
        first = self._characteristic(eigenvalues, basis, odd, extent, wide, _FIRST) / z
        found = SmallLattice(
            self.n_nodes,
            extent * (self.log_scale + math.log(largest)) + math.log(z),
            np.moveaxis(two_point, 0, axis),
            float(probability @ np.mean(self.phi**4, axis=0)),
            wide,
            first,
        )
        if len(first) < _FIRST:
            return found
        # two wells at +-centre have <M^4> = 3 <M^2>^2 - 2 centre^4
        square = math.sqrt(max(3 * variance**2 - found.fourth_moment(variance), 0) / 2)
        width = math.sqrt(max(variance - square, 1e-3 * variance))
        reach = min(wide, math.sqrt(square) + _WELLS * width)
        most = math.ceil(_WAVES * reach / width)
        waves = self._characteristic(eigenvalues, basis, odd, extent, reach, most) / z
        return replace(found, reach=reach, characteristic=waves)

    def _blocks(self) -> tuple[Floats, Floats]:
        """T between states that are even, and odd, under phi -> -phi.

        The nodes are symmetric, so that state s becomes state n_states - 1 - s.
        """
        half, middle = divmod(len(self.matrix), 2)
        same, crossed = self.matrix[:half, :half], self.matrix[:half, : -half - 1 : -1]
        even = np.zeros((half + middle, half + middle))
        even[:half, :half] = same + crossed
        if middle:
            even[half, :half] = even[:half, half] = math.sqrt(2) * self.matrix[:half, half]
            even[half, half] = self.matrix[half, half]
        return even, same - crossed

    def _modes(self) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
        """Eigenvalues, eigenvectors as columns, and which of them are odd under phi -> -phi."""
        count = len(self.matrix)
        half, middle = divmod(count, 2)
        solved = [np.linalg.eigh(block) for block in self._blocks()]
        vectors = np.zeros((count, count))
        first, second = (v / math.sqrt(2) for _, v in solved)
        vectors[:half, : half + middle] = first[:half]
        vectors[: -half - 1 : -1, : half + middle] = first[:half]
        if middle:
            vectors[half, : half + 1] = math.sqrt(2) * first[half]
        vectors[:half, half + middle :] = second
        vectors[: -half - 1 : -1, half + middle :] = -second
        odd = np.arange(count) >= half + middle
        return np.concatenate([value for value, _ in solved]), vectors, odd

    def _two_point(
        self, eigenvalues: Floats, basis: Floats, extent: int, z: float, probability: Floats
    ) -> Floats:
        """G(p), the axis of the transfer matrix first: `(extent, *across)`."""
        powers = eigenvalues ** np.arange(extent + 1)[:, None]
        places = np.indices(self.across).reshape(len(self.across), self.sites)
        lines = []
        for k in places.T:  # momenta, in units of 2 pi over the extents
            terms = (m * x / size for m, x, size in zip(k, places, self.across, strict=True))
            phase = 2 * np.pi * sum(terms, np.zeros(self.sites))
            waves = [wave(phase) @ self.phi for wave in (np.cos, np.sin)]
            squares = sum((basis.T @ (wave[:, None] * basis)) ** 2 for wave in waves)
            # sum over t of exp(-i p t) Tr(O T^t O T^(L-t)) / Z
            correlator = np.einsum(
                "tk,kl,tl->t", powers[:-1], squares / z, powers[:0:-1], optimize=True
            )
            # within a slice all modes count, however small their eigenvalues
            correlator[0] = probability @ sum(wave**2 for wave in waves)
            lines.append(np.fft.fft(correlator).real / self.sites)
        return np.stack(lines, axis=-1).reshape(extent, *self.across)

    def _characteristic(
        self,
        eigenvalues: Floats,
        basis: Floats,
        odd: npt.NDArray[np.bool_],
        extent: int,
        reach: float,
        most: int,
    ) -> Floats:
        """Z <exp(i k pi M / R)> for k = 1, 2, ... up to where it stays below rounding.

        cos connects modes of equal parity and sin those of opposite parity; with a factor i in the
        odd modes all is real.
        """
        total = self.phi.sum(axis=0) / (extent * self.sites)
        signs = np.where(~odd[:, None] & odd, -1.0, 1.0) * eigenvalues
        found: list[float] = []
        z = float(np.sum(eigenvalues**extent))
        while len(found) < most and not (
            len(found) > 3 and max(map(abs, found[-3:])) < _VANISHED * z
        ):
            angle = (len(found) + 1) * math.pi / reach * total
            step = (basis.T @ ((np.cos(angle) + np.sin(angle))[:, None] * basis)) * signs
            half = np.linalg.matrix_power(step, extent // 2)
            rest = half @ step if extent % 2 else half
            found.append(float(np.sum(half * rest.T)))
        return np.array(found)


def _common(fine: Floats, coarse: Floats) -> int:
    """How many waves two sets of nodes agree on; 5 neighbours tell the size, as one may be zero."""
    n = min(len(fine), len(coarse))
    size = np.convolve(np.abs(fine[:n]), np.ones(5), "same")
    apart = np.abs(fine[:n] - coarse[:n]) > 0.1 * size + 10 * _VANISHED
    return int(np.argmax(apart)) if apart.any() else n


def _gauss(n: int, a: float, b: float) -> tuple[Floats, Floats]:
    """Nodes and log weights of the Gauss quadrature with weight exp(-a x^2 - b x^4).

    The Jacobi matrix of the weight's orthogonal polynomials comes from a fine grid (Stieltjes).
    """
    lowest = -(a**2) / (4 * b) if a < 0 else 0.0
    end = 1.0
    while a * end**2 + b * end**4 < lowest + 100:
        end *= 1.1
    x = np.linspace(-end, end, 8001)
    weight = np.exp(lowest - a * x**2 - b * x**4) * (x[1] - x[0])
    total = float(weight.sum())
    before, now = np.zeros_like(x), np.full_like(x, 1 / math.sqrt(total))
    off = np.zeros(n)
    for k in range(n):  # an even weight has a zero diagonal
        after = x * now - (off[k - 1] if k else 0.0) * before
        off[k] = math.sqrt(float(np.sum(weight * after**2)))
        before, now = now, after / off[k]
    jacobi = np.diag(off[:-1], 1) + np.diag(off[:-1], -1)
    nodes, vectors = np.linalg.eigh(jacobi)
    return nodes, np.log(vectors[0] ** 2) + math.log(total) - lowest
