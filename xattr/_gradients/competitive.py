"""Competition for pixels: keep the features that favor or oppose a class more than any other."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from xattr import targets
from xattr._core import chunks, compilation, trees
from xattr.types import Args, Array, ArrayTree


def competitive_gradient_x_input(
    model: targets.Model,
    x: ArrayTree,
    label: Array | int,
    *,
    args: Args = (),
    chunk_size: int | None = None,
) -> ArrayTree:
    """Return gradient times input, but 0 wherever it is stronger for another class.

    h_c = x ⊙ ∂S_c/∂x for every class c. Aᵢ = h_y,i where h_y,i > 0 is the largest of all h_c,i, or
    h_y,i < 0 the smallest; else Aᵢ = 0.

    The paper leaves ties open: here all that tie are kept. The time is that of a backward pass for
    every class.

    Args:
        model: `model(x, *args) -> scores`, the scores S of shape (classes,) for one example; in
            the paper those before the softmax.
        x: the input, a pytree of floating arrays.
        label: y, an integer scalar.
        args: further arguments of the model. They are not attributed; a new value does not
            recompile.
        chunk_size: how many classes to differentiate together; memory is that of as many backward
            passes. None is 16.

    Returns:
        A pytree like x, in units of S. A feature is NaN where h_c is NaN for any class c. All are
        NaN if `label` is not a class.

    Raises:
        ValueError: if the scores are not one-dimensional, or are those of a single class.
        TypeError: if the label is not an integer, a leaf of x or the scores are not floating, or
            `args` is not a tuple.

    Source:
        Gupta & Arora 2019, "A Simple Technique to Enable Saliency Methods to Pass the Sanity
        Checks", "competition for pixels" (arXiv 1905.12152).

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> scores = jnp.array([[1.0, 2.0], [3.0, 0.0], [-1.0, 1.0]])
        >>> xattr.competitive_gradient_x_input(lambda x: x @ scores, jnp.ones(3), 0)
        Array([ 0.,  3., -1.], dtype=float32)
    """
    compilation.check_callable(model, "model")
    compilation.check_args(args)
    x = trees.floating(x, "x")
    program = compilation.compiled(competitive_kernel, model, chunk_size=chunk_size)
    return program(x, targets.index_of(label), args)


def competitive_kernel(
    model: targets.Model,
    x: ArrayTree,
    label: jax.Array,
    args: Args,
    *,
    chunk_size: int | None,
) -> ArrayTree:
    """Compare the class with all others, chunk by chunk."""
    scores, pull_back = jax.vjp(lambda x: _scores(model, x, args), x)
    classes = jnp.arange(scores.size, dtype=jnp.int32)

    def product(index: jax.Array) -> ArrayTree:
        # Made from the scores, so that it varies over their mesh axes under shard_map.
        unit = jnp.where(classes == index, jnp.ones_like(scores), jnp.zeros_like(scores))
        (gradient,) = pull_back(unit)
        return trees.product(trees.widen(x), trees.widen(gradient))

    def part(start: Any, size: int, valid: Array) -> _Rivalry:
        indices = start + jnp.arange(size, dtype=jnp.int32)
        products = jax.vmap(product)(indices)

        def masked(mask: jax.Array) -> ArrayTree:
            mask = mask & jnp.asarray(valid)
            return jax.tree.map(
                lambda leaf: jnp.where(jnp.expand_dims(mask, range(1, leaf.ndim)), leaf, 0),
                products,
            )

        # The class is kept out of the others: rounded differently, it could lose against itself.
        own, others = masked(indices == label), masked(indices != label)
        return _Rivalry(
            jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), own),
            jax.tree.map(lambda leaf: jnp.max(leaf, axis=0, initial=0), others),
            jax.tree.map(lambda leaf: jnp.min(leaf, axis=0, initial=0), others),
        )

    size = chunks.DEFAULT_SIZE if chunk_size is None else chunk_size
    rivalry = chunks.reduce(part, _merge, scores.size, chunk_size=size)
    known = (label >= 0) & (label < scores.size)
    kept = jax.tree.map(_winning, *rivalry)
    return trees.cast_like(jax.tree.map(lambda leaf: jnp.where(known, leaf, jnp.nan), kept), x)


class _Rivalry(NamedTuple):
    """The products h of the class, and the largest and smallest of 0 and the other classes' h."""

    own: ArrayTree
    high: ArrayTree
    low: ArrayTree


def _merge(left: _Rivalry, right: _Rivalry) -> _Rivalry:
    return _Rivalry(
        trees.add(left.own, right.own),
        jax.tree.map(jnp.maximum, left.high, right.high),
        jax.tree.map(jnp.minimum, left.low, right.low),
    )


def _winning(own: jax.Array, high: jax.Array, low: jax.Array) -> jax.Array:
    """Return the products that no other class exceeds; NaN where another class has NaN."""
    is_beaten = jnp.where(own > 0, own < high, own > low)
    return jnp.where(jnp.isnan(high), high, jnp.where(is_beaten, 0, own))


def _scores(model: targets.Model, x: ArrayTree, args: Args) -> jax.Array:
    scores = targets.scores_of(model, x, args)
    if scores.size < 2:
        raise ValueError(
            f"`model` returns {scores.size} score, which has no other class to compete with: "
            "use xattr.gradient_x_input"
        )
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise TypeError(f"`model` must return floating scores, but returned {scores.dtype}")
    return scores
