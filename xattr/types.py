"""The names of things: the function explained, a path, a quadrature, samples of a path."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import chex
import jax
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray
"""An array on a device or on the host."""

ArrayTree: TypeAlias = Any
"""A pytree whose leaves are arrays; `Any`, since its nodes can be of any type."""

PRNGKey: TypeAlias = chex.PRNGKey
"""A random key, as made by `jax.random.key`."""

Function: TypeAlias = Callable[..., Any]
"""The function explained: `f(x, *args) -> scalar`, for one example `x`, any pytree of floats."""

Method: TypeAlias = Callable[..., ArrayTree]
"""An attribution method: `method(f, x, *, args)` or `method(f, x, baseline, *, args) -> pytree`."""

Path: TypeAlias = Callable[[Any], ArrayTree]
"""A path γ: `alpha -> pytree like x` on [0, 1]; γ(0) is the baseline, γ(1) the input."""

Progress: TypeAlias = Callable[[Iterable[int]], Iterable[int]]
"""Wraps the loop over the chunks of work, as `tqdm.tqdm` does."""


class IncompleteWarning(UserWarning):
    """Attributions that miss the change of f that they are to sum to."""


class UncoveredPrimitiveError(NotImplementedError):
    """An operation of the program that no rule of the method covers."""


class UnreadableProgramError(NotImplementedError):
    """A program written in a way that the library does not know, by another version of JAX."""


class Quadrature(NamedTuple):
    """A quadrature ∫₀¹ g(α) dα ≈ Σₖ weights[k] · g(nodes[k]).

    Both are one-dimensional, of one length n ≥ 1; nodes lie in [0, 1] and do not decrease.
    """

    nodes: Array
    weights: Array


class PathSamples(NamedTuple):
    """A path γ sampled at the nodes αₖ of a quadrature, ready for `xattr.integrate`.

    `points` and `velocities` are pytrees like x with a leading axis of n nodes: γ(αₖ) and γ'(αₖ).
    `weights` has shape (n,).
    """

    points: ArrayTree
    velocities: ArrayTree
    weights: Array
