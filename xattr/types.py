"""The names of things: the function explained, a path, a quadrature, samples of a path."""

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, TypeAlias

import chex
import jax
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray
"""An array on a device or on the host."""

ArrayTree: TypeAlias = Any
"""A pytree whose leaves are arrays: an array, or a dict, tuple, list or registered node of them.

For a type checker it is `Any`, since JAX lets every class register as a node.
"""

Args: TypeAlias = tuple[ArrayTree, ...]
"""The further arguments of f, a tuple of pytrees: `(label, params)` for f(x, label, params)."""

Alpha: TypeAlias = Any
"""A place α on a path, a scalar in [0, 1]: a Python float, or an array of shape ().

For a type checker it is `Any`, so that a path of your own may annotate whichever it takes.
"""

PRNGKey: TypeAlias = chex.PRNGKey
"""A random key, as made by `jax.random.key`."""


class Function(Protocol):
    """The function explained: `f(x, *args) -> scalar`.

    It takes one example: x is a pytree of floating arrays. f is called without keywords.
    """

    # A type checker accepts any parameters after x only if both `*args` and `**kwargs` are `Any`.
    def __call__(self, x: ArrayTree, /, *args: Any, **kwargs: Any) -> Any:
        """Return f(x, *args), a floating scalar."""


class Method(Protocol):
    """An attribution method: `method(f, x, *, args=())` or `method(f, x, baseline, *, args=())`."""

    def __call__(self, f: Function, x: ArrayTree, /, *args: Any, **options: Any) -> ArrayTree:
        """Return the attributions, a pytree like x."""


class Path(Protocol):
    """A path γ on [0, 1]: `alpha -> pytree like x`; γ(0) is the baseline, γ(1) the input."""

    def __call__(self, alpha: Alpha, /) -> ArrayTree:
        """Return γ(alpha), a pytree like x."""


class Progress(Protocol):
    """A wrapper of the loop over the chunks of work, such as `tqdm.tqdm`."""

    def __call__(self, chunks: Iterable[int], /) -> Iterable[int]:
        """Return an iterable that yields every item of `chunks` once, in order."""


class IncompleteWarning(UserWarning):
    """Attributions whose sum misses the change of f."""


class UncoveredPrimitiveError(NotImplementedError):
    """An operation of the program that no rule of the method covers."""


class UnreadableProgramError(NotImplementedError):
    """A program of a version of JAX that this library cannot read."""


class Quadrature(NamedTuple):
    """A quadrature ∫₀¹ g(α) dα ≈ Σₖ weights[k] · g(nodes[k]).

    Both are one-dimensional, of one length n ≥ 1; nodes lie in [0, 1] and do not decrease.
    """

    nodes: Array
    weights: Array

    def __repr__(self) -> str:
        nodes = self.nodes
        known = isinstance(nodes, Array) and not isinstance(nodes, jax.core.Tracer)
        if not known or np.ndim(nodes) != 1 or nodes.size <= 8:
            return f"Quadrature(nodes={nodes!r}, weights={self.weights!r})"
        if not getattr(nodes, "is_fully_addressable", True):  # other processes hold a part of it
            return f"Quadrature({nodes.size} nodes)"
        first, last = np.asarray(nodes)[[0, -1]].astype(float)  # NumPy, since JAX would trace it
        return f"Quadrature({nodes.size} nodes in [{first:.4g}, {last:.4g}])"


class PathSamples(NamedTuple):
    """A path γ sampled at the nodes αₖ of a quadrature, ready for `xattr.integrate`.

    `points` and `velocities` are pytrees like x with a leading axis of n nodes: γ(αₖ) and γ'(αₖ).
    `weights` has shape (n,).
    """

    points: ArrayTree
    velocities: ArrayTree
    weights: Array


class Estimate(NamedTuple):
    """Attributions from a sample, and how far they may be off."""

    attributions: ArrayTree
    standard_error: ArrayTree
    """The standard error of each attribution; it falls as 1/√n with the sample."""
