"""The film of a sample: what is drawn is what was given, and the Langevin process is the theory's.

A free field's Euler steps are solved mode by mode, so their bias is known and tested too.
"""

import xml.etree.ElementTree as ET

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from rows import each
from theories import free_theory

from lattice_ml import jobs, report
from lattice_ml.actions import FreeField, Phi4
from lattice_ml.fields.lattice import Lattice
from lattice_ml.jobs.film import langevin, langevin_step_size, write_film
from lattice_ml.models.diffusion.denoiser import Zero
from lattice_ml.models.diffusion.drawer import DiffusionDrawer
from lattice_ml.models.diffusion.drawing import Drawing
from lattice_ml.report.film import film_figure

pytestmark = pytest.mark.unoptimised

BROKEN = Phi4(h=1.0, a=0.956, b=0.022)  # kappa = 0.5, lam = 0.022
VARIANCES = np.array([9.0, 4.0, 1.0, 0.25, 0.01, 0.0])


def noised(shape=(8, 8), n=3, magnetisation=0.0):
    """Gaussian fields of variance 0.09 under falling noise, `(6, n, *shape)`."""
    rng = np.random.default_rng(5)
    field = magnetisation + 0.3 * rng.normal(size=(n, *shape))
    walk = np.sqrt(-np.diff(VARIANCES, append=0)).reshape(-1, *[1] * field.ndim)
    noise = np.cumsum((walk * rng.normal(size=(6, *field.shape)))[::-1], axis=0)[::-1]
    return field + noise


@pytest.fixture
def drawn(monkeypatch):
    """What a short `write_film` gives to `film_figure`: frames, sigmas, fields, Langevin times."""
    seen = []

    def spy(*arguments):
        seen.extend(np.asarray(argument) for argument in arguments)
        return film_figure(*(argument[:1] for argument in arguments))

    monkeypatch.setattr(jobs.film, "_STEPS", 200)
    monkeypatch.setattr(report.film, "film_figure", spy)
    return seen


@pytest.mark.parametrize(("method", "tolerance"), [("path", 0), ("sde", 0.05), ("ode", 0.05)])
def test_frames_of_a_free_field_have_the_variance_of_their_noise(method, tolerance):
    """Exactly C + t for a path; the other samplers have an error of their steps."""
    theory = free_theory((4, 4))
    drawing = Drawing(method, n_steps=48, batch_size=2000)
    frames, variances = DiffusionDrawer(Zero(), theory, drawing, jax.random.key(2), 5).film()
    found = np.mean(np.asarray(theory.modes.forward(jnp.asarray(frames))) ** 2, axis=1)
    noised = theory.propagator + np.reshape(variances, (5, 1, 1))
    statistical = 4.5 * np.sqrt(2 / 2000)
    assert variances.shape == (5,) and np.all(np.diff(variances) < 0)
    assert_allclose(found / noised, 1, atol=statistical + tolerance)


def test_the_page_holds_all_that_it_shows(tmp_path):
    page = write_film(noised(), VARIANCES, BROKEN, tmp_path)
    assert page == tmp_path / "film.html"
    assert (tmp_path / "film.png").read_bytes().startswith(b"\x89PNG")
    text = page.read_text(encoding="utf-8")
    root = ET.fromstring(text.removeprefix("<!DOCTYPE html>"))
    links = [v for e in root.iter() for k, v in e.attrib.items() if k.split("}")[-1] == "href"]
    images = [link for link in links if link.startswith("data:image/png")]
    assert len(images) == 11, "two rows of five frames, and the colours"
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "<script" not in text


def test_frames_are_shown_with_their_noise(tmp_path, drawn):
    frames = noised()
    write_film(frames, VARIANCES, BROKEN, tmp_path)
    shown, sigmas, quantised, times = drawn
    places = [VARIANCES.tolist().index(round(t, 9)) for t in sigmas**2]
    assert (places[0], places[-1]) == (0, 5), "the first and the last noise"
    assert_allclose(shown, frames[places, 0])
    assert quantised.shape == shown.shape and times[0] == 0


def test_a_broken_phase_begins_where_noise_hides_the_well(tmp_path, drawn):
    frames = noised(magnetisation=4.0)
    write_film(frames, VARIANCES, BROKEN, tmp_path)
    shown, sigmas, _, _ = drawn
    assert_allclose(sigmas[0] / (8 * 4), 1, rtol=0.02)  # sqrt(V <M^2>)
    assert_allclose(sigmas[1] ** 2, sigmas[0] * sigmas[2])
    assert_allclose(shown[2], frames[0, 0])
    added = (shown[:2] - shown[1:3]).var(axis=(1, 2))  # of 64 sites: known to sqrt(2/64) = 18 %
    assert_allclose(added / (sigmas[:2] ** 2 - sigmas[1:3] ** 2), 1, atol=0.6)


def test_a_symmetric_film_is_the_samplers_alone(tmp_path, drawn):
    write_film(noised(), VARIANCES, BROKEN, tmp_path)
    assert drawn[1][0] == 3.0


def test_langevin_has_the_known_bias_of_euler_steps():
    """A free mode of eigenvalue A gets the variance 1 / (A (1 - eps A / 2)), and no other."""
    free, shape, n, n_frames = FreeField(0.5, 2), (4, 4), 64, 100
    eps = 10 * langevin_step_size(free, shape)  # 0.5 / A_max: a bias of a third at A_max
    eigenvalues = 0.5 + Lattice(shape).p_hat_squared
    slowest = int(np.ceil(1 / (eps * 0.5)))
    ends = np.arange(5 * slowest, (5 + n_frames) * slowest, slowest, dtype=np.int32)
    fields = langevin(jax.random.key(1), free, jnp.zeros((n, *shape)), ends, eps)
    modes = np.abs(np.fft.fft2(fields)) ** 2 / 16
    found = modes.mean(axis=(0, 1))
    error = modes.mean(axis=0).std(axis=0, ddof=1) / np.sqrt(n)
    z = (found - 1 / (eigenvalues * (1 - eps * eigenvalues / 2))) / error
    assert np.abs(z).max() < 4.5
    assert found[2, 2] * eigenvalues.max() > 1.25, "the bias itself is seen"


def test_langevin_keeps_the_fields_after_the_steps_asked_for():
    phi = jnp.ones((2, 4, 4), jnp.float32)
    kept = langevin(jax.random.key(0), BROKEN, phi, np.array([0, 3, 7], np.int32), 0.01)
    again = langevin(jax.random.key(0), BROKEN, phi, np.array([0, 7, 9], np.int32), 0.01)
    assert kept.dtype == jnp.float32 and kept.shape == (3, 2, 4, 4)
    assert_allclose(kept[0], phi)
    assert_allclose(kept[2], again[1])
    assert np.abs(kept[1] - kept[2]).max() > 0.01


def test_the_step_follows_the_stiffest_mode():
    assert_allclose(langevin_step_size(FreeField(0.5, 2), (4, 4)), 0.05 / 8.5)
    minimum = BROKEN.minimum(2)
    stiffest = 2 * 0.956 + 4 + 12 * 0.022 * minimum**2
    assert_allclose(langevin_step_size(BROKEN, (8, 8)), 0.05 / stiffest)


@pytest.mark.parametrize("shape", [(12,), (6, 4), (3, 4, 5)])
def test_every_frame_is_drawn_in_units_of_its_own_rms(shape):
    fields = np.random.default_rng(2).normal(size=(3, *shape)) * np.reshape(
        [1, 20, 300], (3, *[1] * len(shape))
    )
    figure = film_figure(fields, [3.0, 1.0, 0.0], -fields, [0.0, 0.5, 120.0])
    axes = figure.axes[:6]
    assert [axis.get_title() for axis in axes[::3]] == [r"$\sigma = 3.0$", r"$\tau = 0$"]
    assert [axes[2].get_title(), axes[5].get_title()] == [r"$\sigma = 0$", r"$\tau = 120$"]
    scaled = np.concatenate([fields, -fields])
    scaled /= np.sqrt(np.mean(scaled**2, axis=tuple(range(1, scaled.ndim)), keepdims=True))
    for axis, field in zip(axes, scaled, strict=True):
        if len(shape) == 1:
            assert_allclose(axis.lines[-1].get_ydata(), field)
            continue
        plane = field if len(shape) == 2 else field[0]
        low, high = axis.images[0].get_clim()
        assert low == -high, "zero is white"
        assert_allclose(axis.images[0].get_array(), plane.T if shape == (6, 4) else plane)


@each(
    ("frames", "variances", "message"),
    [
        (np.ones((6, 8, 8))[:, 0], VARIANCES, r"\(n_frames, n, \*L\).* got shape \(6, 8\)"),
        (noised()[:1], VARIANCES[:1], r"at least two of them.* got shape \(1, 3, 8, 8\)"),
        (noised()[:, :0], VARIANCES, r"at least one sample, got shape \(6, 0, 8, 8\)"),
        (noised(), VARIANCES[1:], r"one noise variance per frame, \(6,\), got \(5,\)"),
        (noised() * np.nan, VARIANCES, "finite numbers"),
        (noised(), VARIANCES[::-1], r"must fall towards 0, got variances \[0"),
        (noised(), VARIANCES - 1, "must fall towards 0"),
    ],
)
def test_what_is_no_film_is_refused(frames, variances, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_film(frames, variances, BROKEN, tmp_path)
