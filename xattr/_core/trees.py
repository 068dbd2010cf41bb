"""Pytrees of floating arrays: checks whose errors name the remedy, and sums in float32 at least."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr.types import ArrayTree


def leaf_name(name: str, path: tuple[Any, ...]) -> str:
    """Name a leaf for an error message: `x` or `x`['image'][0]."""
    return f"`{name}`{jax.tree_util.keystr(path)}"


def type_of(value: Any) -> str:
    """Name the type of a value in an error message: "a list", "an int"."""
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeio' else 'a'} {name}"


def floating(tree: ArrayTree, name: str) -> ArrayTree:
    """Return the tree with strongly typed JAX arrays as leaves; raise if one is not floating."""
    if not jax.tree.leaves(tree):
        raise ValueError(f"`{name}` has no arrays: pass an array or a pytree of floating arrays")
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _float(leaf, leaf_name(name, path)), tree
    )


def _float(leaf: Any, name: str) -> jax.Array:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf if not leaf.weak_type else jnp.asarray(leaf, dtype=leaf.dtype)
    try:
        dtype = jnp.result_type(leaf)
    except TypeError as error:
        raise TypeError(
            f"{name} must be a floating array, but is {type_of(leaf)}: "
            "pass a pytree of floating arrays"
        ) from error
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{name} must be floating, but has dtype {dtype}: "
            + (_remedy(dtype) if name.startswith("`x`") else "pass floats")
        )
    return jnp.asarray(leaf, dtype=dtype)


def _remedy(dtype: Any) -> str:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return (
            "split it into two leaves of x, its real and imaginary parts, and put them together "
            "in f: jax.lax.complex(x['real'], x['imag'])"
        )
    return (
        "there is no gradient with respect to it. For tokens or categories attribute at the "
        "embedding: embed, from_embeddings = xattr.tokens.at_embedding(model)"
    )


def like(tree: ArrayTree, x: ArrayTree, name: str, reference: str = "x") -> ArrayTree:
    """Return the tree in the dtypes of x; raise if structure or shapes differ from those of x."""
    same_structure(tree, x, name, reference)
    tree = floating(tree, name)

    def leaf_like(path: tuple[Any, ...], leaf: jax.Array, target: jax.Array) -> jax.Array:
        if leaf.shape != target.shape:
            raise ValueError(
                f"{leaf_name(name, path)} has shape {leaf.shape}, but {leaf_name(reference, path)} "
                f"has shape {target.shape}: pass arrays of the same shapes, for a constant "
                f"jax.tree.map(lambda v: jnp.full_like(v, constant), {reference})"
            )
        return cast(leaf, target)

    return jax.tree_util.tree_map_with_path(leaf_like, tree, x)


def same_structure(tree: ArrayTree, x: ArrayTree, name: str, reference: str = "x") -> None:
    """Raise if the structure of the tree is not that of x."""
    found: Any = jax.tree.structure(tree)
    expected: Any = jax.tree.structure(x)
    if found != expected:
        raise ValueError(
            f"`{name}` must have the structure of `{reference}`, but is {found} where "
            f"`{reference}` is {expected}: pass a pytree with the same keys"
        )


def baseline_like(baseline: ArrayTree | None, x: ArrayTree) -> ArrayTree:
    """Return the baseline in the dtypes of x; zeros if it is None."""
    return jax.tree.map(jnp.zeros_like, x) if baseline is None else like(baseline, x, "baseline")


def wide(dtype: Any) -> Any:
    """Return the dtype in which sums are taken: float32 at least."""
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype("float32")


def widen(tree: ArrayTree) -> ArrayTree:
    """Cast every leaf to the dtype in which sums are taken."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, wide(jnp.result_type(leaf))), tree)


def cast_like(tree: ArrayTree, x: ArrayTree) -> ArrayTree:
    """Cast every leaf to the dtype of the leaf of x."""
    return jax.tree.map(cast, tree, x)


def cast(leaf: jax.Array, target: Any) -> jax.Array:
    """Return the leaf in the dtype of the target."""
    return leaf if leaf.dtype == target.dtype else leaf.astype(target.dtype)


def as_first_axes(values: jax.Array, leaf: jax.Array) -> jax.Array:
    """Return values of the first axes of a leaf, so that they broadcast along its other axes."""
    return values.reshape(values.shape + (1,) * (leaf.ndim - values.ndim))


def add(left: ArrayTree, right: ArrayTree) -> ArrayTree:
    """Add two trees, leaf by leaf."""
    return jax.tree.map(jnp.add, left, right)


def product(factors: ArrayTree, slopes: ArrayTree) -> ArrayTree:
    """Multiply two trees, leaf by leaf; a factor of 0 times a slope that is not finite is 0.

    The gradient of a square root at 0 is infinite, and that of a norm is NaN. A feature that does
    not move, or is 0, still has the attribution 0.
    """

    def leaf_product(factor: jax.Array, slope: jax.Array) -> jax.Array:
        lost = (factor == 0) & ~jnp.isfinite(slope)
        return factor * jnp.where(lost, jnp.zeros_like(slope), slope)

    return jax.tree.map(leaf_product, factors, slopes)


def total(tree: ArrayTree) -> jax.Array:
    """Sum all elements of all leaves, in the widest dtype among them and float32."""
    sums = [jnp.sum(leaf) for leaf in jax.tree.leaves(widen(tree))]
    dtype = widest(sums)
    return jnp.sum(jnp.stack([leaf.astype(dtype) for leaf in sums]))


def widest(leaves: list[Any]) -> Any:
    """Return the widest dtype among the leaves, float32 at least."""
    return max((wide(leaf.dtype) for leaf in leaves), key=lambda dtype: jnp.dtype(dtype).itemsize)


def eps(leaf: Any) -> float:
    """Return the spacing of numbers of the leaf's dtype, relative to 1."""
    return float(jnp.finfo(jnp.result_type(leaf)).eps)  # type: ignore[no-untyped-call]


def on_host(value: Any) -> np.ndarray | None:
    """Return the concrete value as NumPy, or None while tracing.

    NumPy, since inside a trace JAX records even an operation on concrete arrays.
    """
    return None if isinstance(value, jax.core.Tracer) else np.asarray(value)


def is_traced(*trees: ArrayTree) -> bool:
    """Tell whether any leaf is a tracer, which has no concrete value."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


@jax.jit
def _all_finite(tree: ArrayTree) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def has_nonfinite(tree: ArrayTree) -> bool:
    """Tell whether a leaf holds a NaN or an infinity; False while tracing."""
    return not is_traced(tree) and not bool(_all_finite(tree))


def brief(tree: ArrayTree) -> str:
    """Write a tree with shapes and dtypes for arrays: `{'a': f32[3], 'b': 0.5}`."""
    return repr(jax.tree.map(_Brief, tree))


class _Brief:
    """A leaf of a tree that is written short."""

    def __init__(self, leaf: Any) -> None:
        self.leaf = leaf

    def __repr__(self) -> str:
        leaf = self.leaf
        if isinstance(leaf, functools.partial):
            keywords = (f"{name}={brief(value)}" for name, value in leaf.keywords.items())
            return f"partial({', '.join([brief(leaf.func), *map(brief, leaf.args), *keywords])})"
        if not isinstance(leaf, (jax.Array, np.ndarray)):
            return str(getattr(leaf, "__name__", repr(leaf)))
        if leaf.ndim or is_traced(leaf) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.typeof(leaf).str_short(short_dtypes=True)
        return str(np.asarray(leaf))


def check_count(value: Any, name: str, remedy: str = "") -> None:
    """Raise if the value is not a whole number of at least 1."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, not {value!r}{remedy}")


def check_key(key: Any) -> None:
    """Raise if the value is not one random key, of `jax.random.key` or `jax.random.PRNGKey`."""
    if not _is_key(key):
        seed = key if isinstance(key, int) else 0
        raise TypeError(f"`key` must be one random key: pass jax.random.key({seed})")


def _is_key(key: Any) -> bool:
    if not isinstance(key, (jax.Array, np.ndarray)):
        return False
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key.shape == ()
    return key.dtype == np.uint32 and key.ndim == 1  # as jax.random.PRNGKey makes them


def check_not_negative(value: Any, name: str) -> None:
    """Raise if a concrete value is negative or NaN."""
    known = on_host(value)
    if known is not None and not (known >= 0).all():
        raise ValueError(f"`{name}` must be 0 or more, not {value!r}")


# Axes of a mesh that an array varies over, inside `jax.shard_map` --------------------------------


def varying_like(operand: Any, aval: Any) -> Any:
    """Return the operand, cast to vary over the mesh axes that a traced array varies over."""
    axes = _varying_axes(aval)
    return _varying_over(operand, axes) if axes else operand


def with_same_varying_axes(tree: ArrayTree) -> ArrayTree:
    """Return the tree with all arrays cast to vary over the mesh axes that any of them varies over.

    Inside `jax.shard_map` the gradient with respect to an array that is replicated is summed over
    the devices. Take x replicated and a label for each device: without the cast every device would
    get the sum of the gradients for all labels.
    """
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.core.Tracer)]
    axes = frozenset[Any]().union(*(_varying_axes(jax.typeof(leaf)) for leaf in leaves))
    if not axes:
        return tree

    def cast_leaf(leaf: Any) -> Any:
        is_key = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
        return leaf if is_key else _varying_over(leaf, axes)

    return jax.tree.map(cast_leaf, tree)


def _varying_axes(aval: Any) -> frozenset[Any]:
    """Return the mesh axes that an array varies over."""
    kind = getattr(aval, "manual_axis_type", None)
    return getattr(kind, "varying", frozenset())


def _varying_over(leaf: Any, axes: frozenset[Any]) -> Any:
    missing = axes - _varying_axes(jax.typeof(leaf))
    return lax.pcast(leaf, tuple(missing), to="varying") if missing else leaf
