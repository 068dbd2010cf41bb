"""What an axiom asks for besides functions, an input and a baseline: how it is drawn and passed on.

`hypothesis` is imported when something is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xattr import paths
from xattr.types import Path

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

STEPS = 6
"""Coordinates lie between −3 and 3, half a unit apart."""

SEEDS = 999

SCALES = (2.0, 0.5, -3.0, 10.0)

PATHS: dict[str, Callable[..., Path]] = {
    "straight": lambda b, x, random: paths.straight_line(baseline=b, x=x),
    "monotone": lambda b, x, random: paths.monotone(
        baseline=b, x=x, exponents=jnp.asarray(random.uniform(1, 3, b.shape), b.dtype)
    ),
    "polyline": lambda b, x, random: paths.polyline(
        jnp.stack([b, b + jnp.asarray(random.normal(size=b.shape), b.dtype), x])
    ),
    "coordinatewise": lambda b, x, random: paths.coordinatewise(
        baseline=b, x=x, order=random.permutation(b.size)
    ),
}
"""Kind -> path from a baseline to an input; numbers of the path are drawn at random."""

WARPS: dict[str, Callable[[Any], Any]] = {
    "cubed": lambda t: t**3,
    "late": lambda t: t * t,
    "early": lambda t: t * (2 - t),
}


class Option(NamedTuple):
    """An operand of a measure besides functions, input and baseline, as a problem keeps it.

    A problem keeps what can be printed and pasted, such as the name of a path; `operand` makes of
    it what the measure takes.
    """

    draw: Callable[[DrawFn, tuple[int, ...]], Any]
    """`draw(draw, shape)` draws a value for an input of this shape."""
    papers: Callable[[int], Iterable[Any]] = lambda size: ()
    """`papers(size)`: values that the papers' problems are tried with; none leaves it out."""
    operand: Callable[[Any, Any], Any] = lambda problem, value: value
    """`operand(problem, value)`: what the measure takes."""
    default: Any = None
    """The value of a problem that was made without one; None: the measure has to be told."""
    choices: tuple[str, ...] = ()
    """The values that there are, if they are names."""
    is_like_x: bool = False
    """Whether it is an array of the shape and dtype of x."""
    simplest: Any = None
    """The value that a counterexample is tried with at last; None: it stays as it was drawn."""


# What is drawn ----------------------------------------------------------------------------------


def strategies() -> Any:
    """Return hypothesis.strategies, or say how to get it."""
    try:
        from hypothesis import strategies
    except ImportError as error:
        raise ImportError(
            "`xattr.testing` draws with hypothesis, which is not installed: "
            "pip install 'xattr-jax[test]'"
        ) from error
    return strategies


def below(count: int) -> SearchStrategy[int]:
    """Draw from 0 to count − 1, the smallest first."""
    drawn: SearchStrategy[int] = strategies().sampled_from(range(count))
    return drawn


def whole() -> SearchStrategy[int]:
    """Draw from −STEPS to STEPS, the smallest first.

    Not with `integers`: hypothesis adds to these the constants that a caller's modules contain.
    """
    steps = sorted(range(-STEPS, STEPS + 1), key=abs)
    drawn: SearchStrategy[int] = strategies().sampled_from(steps)
    return drawn


def steps(draw: DrawFn, size: int) -> np.ndarray:
    """Draw whole numbers, by seed for their variety or one by one for simple counterexamples."""
    st = strategies()
    if draw(st.booleans()):
        random = np.random.default_rng(draw(below(SEEDS)))
        return random.integers(-STEPS, STEPS + 1, size)
    return np.array(draw(st.lists(whole(), min_size=size, max_size=size)))


def floats(values: Any) -> jax.Array:
    """Return numbers as an array of the default precision."""
    if isinstance(values, jax.Array) and jnp.issubdtype(values.dtype, jnp.floating):
        return values
    return jnp.asarray(np.asarray(values, np.float64), jnp.zeros(()).dtype)


def like_x(value: Any, x: jax.Array) -> jax.Array:
    """Return a number or an array in the shape and dtype of x."""
    return jnp.broadcast_to(floats(value).astype(x.dtype), x.shape)


# The options ------------------------------------------------------------------------------------


def factor(in_papers: float) -> Option:
    """Return the option of a factor of a function."""
    return Option(
        lambda draw, shape: draw(whole().map(lambda k: k / 2)), papers=lambda size: (in_papers,)
    )


def _draw_scale(draw: DrawFn, shape: tuple[int, ...]) -> np.ndarray:
    st, size = strategies(), math.prod(shape)
    return np.reshape(draw(st.lists(st.sampled_from(SCALES), min_size=size, max_size=size)), shape)


def _draw_shift(draw: DrawFn, shape: tuple[int, ...]) -> np.ndarray:
    return (steps(draw, math.prod(shape)) / 2).reshape(shape)


def _one_of(names: tuple[str, ...], operand: Callable[[Any, Any], Any]) -> Option:
    def draw(draw: DrawFn, shape: tuple[int, ...]) -> Any:
        return draw(strategies().sampled_from(list(names)))

    return Option(draw, operand=operand, default=names[0], choices=names)


def path_of(problem: Any, kind: str) -> Path:
    """Return a path from the baseline of a problem to its input."""
    random = np.random.default_rng([problem.seed, 1])
    return PATHS[kind](problem.baseline, problem.x, random)


FEATURE = Option(lambda draw, shape: draw(below(math.prod(shape))), papers=range)
SHIFT = Option(_draw_shift, papers=lambda size: (1.0,), is_like_x=True, simplest=0.0)
SCALE = Option(_draw_scale, papers=lambda size: (2.0,), is_like_x=True)
PATH = _one_of(tuple(PATHS), path_of)
WARP = _one_of(tuple(WARPS), lambda problem, name: WARPS[name])
