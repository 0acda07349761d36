"""Structures of trees are what `jax.jit` finds compiled programs by."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest

from lattice_ml import HMC, Phi4, pytree, static

LENGTHS = {"step_size": 0.1, "n_steps": 3, "trajectory_length": 0.3}


@pytree
class Line:
    slope: float
    offset: float = 0.0
    ndim: int = static(default=2)


@pytree
class Parabola:
    slope: float
    offset: float = 0.0
    ndim: int = static(default=2)


@pytree
class Steeper(Line):
    pass


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mine:
    kappa: float


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Yours:
    kappa: float


def structure(tree):
    return jax.tree.structure(tree)


@pytest.mark.parametrize(
    "pair",
    [
        (Line(1.0), Parabola(1.0)),
        (Line(1.0), Steeper(1.0)),
        (Line(1.0), Line(1.0, ndim=3)),
        (HMC(Line(1.0)), HMC(Parabola(1.0))),
        (HMC(Mine(1.0)), HMC(Yours(1.0))),
        ([HMC(Mine(1.0))], [HMC(Yours(1.0))]),
    ],
    ids=["fields", "subclass", "static", "child", "child of JAX", "list"],
)
def test_trees_of_two_kinds_differ(pair):
    """Hashes that differ are not enough: they meet in a table of 128 marks."""
    one, other = pair
    assert structure(one) != structure(other)
    assert structure(one) == structure(jax.tree.map(lambda leaf: 2 * leaf, one))


def test_an_action_defined_again_is_another_one():
    """A cell of a notebook, edited and run again."""

    def cell(power):
        @pytree
        class Mine:
            scale: float

            def __call__(self, phi):
                return self.scale * phi**power

        return Mine(2.0)

    act = jax.jit(lambda action, phi: action(phi))
    for _ in range(30):
        assert [float(act(cell(power), 3.0)) for power in (1, 2)] == [6, 18]


def test_leaves_are_the_fields_that_are_not_static():
    line = Line(1.0, 2.0, ndim=3)
    assert jax.tree.leaves(line) == [1.0, 2.0]
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(line)]
    assert paths == [".slope", ".offset"]
    assert jax.tree.map(lambda leaf: leaf + 1, line) == Line(2.0, 3.0, ndim=3)


def test_other_leaves_do_not_compile_anew():
    traced = []

    @jax.jit
    def total(sampler):
        traced.append(sampler)
        return sampler.action.h

    for h in (0.25, 0.5, 0.75):
        assert float(total(HMC(Phi4(h, 0.956, 0.022), **LENGTHS))) == h
    assert len(traced) == 1


def test_trees_pass_through_transformations():
    lines = Line(jnp.arange(3.0), jnp.ones(3))
    value = jax.vmap(lambda line: line.slope + line.offset)(lines)
    assert value.tolist() == [1, 2, 3]
    one = jax.vmap(lambda line: line.slope * line.offset, in_axes=(Line(0, None),))
    assert one(Line(jnp.arange(3.0), 2.0)).tolist() == [0, 2, 4]
    slope = jax.grad(lambda pair: 3 * pair[0].slope)((Line(1.0), Parabola(1.0)))
    assert slope == (Line(3.0), Parabola(0.0))
