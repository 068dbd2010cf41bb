"""Randomization tests: attributions should change when parameters or labels become random.

A *layer* is named by the keys on the way to it, joined by "/": "conv1", "encoder/block_3",
"conv1/bias"; items of a list go by their index, fields of a tuple or a module by their name. An
*initialiser* is any `init(params, key) -> pytree like params`; each layer takes its part of it, so
that its new values depend on `key` and its name alone: not on what else is random.
"""

import difflib
import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from xattr._core import trees
from xattr.types import Array, ArrayTree, PRNGKey

__all__ = [
    "cascading",
    "edge_detector",
    "independent",
    "randomize",
    "randomize_labels",
    "truncated_normal",
]

Initializer: TypeAlias = Callable[[ArrayTree, PRNGKey], ArrayTree]
"""`init(params, key) -> pytree like params`: the parameters of a new network."""

Layers: TypeAlias = str | Sequence[str]
"""The name of a layer, or names of several that are random together."""


def randomize(
    params: ArrayTree, key: PRNGKey, *, layers: Layers, init: Initializer | None = None
) -> ArrayTree:
    """Give the named layers of a network new random parameters, and leave the others.

    θ'ₗ = init(θ, key)ₗ for l in `layers`; θ'ₗ = θₗ for all others. A layer gets the same θ'ₗ
    whatever else is random, so `layers=order[:k]` is stage k of `xattr.sanity.cascading`, without
    holding all of them.

    Shapes: any pytree, as is the result. `init` is `xattr.sanity.truncated_normal()` if None; for
    the network's own pass for example `lambda params, key: net.init(key, x)["params"]`. It makes
    the whole tree, of which the other layers are dropped. Leaves that are not floating stay as they
    are. Raises `ValueError` for a name that is none of the tree's, with those that are, and for a
    new network of another structure.
    Source: Adebayo et al. 2018, "Sanity Checks for Saliency Maps", §3.

    >>> import jax, jax.numpy as jnp, xattr
    >>> params = {"hidden": jnp.ones(2), "output": jnp.ones(2)}
    >>> new = xattr.sanity.randomize(params, jax.random.key(0), layers="output")
    >>> print(new["hidden"], jnp.abs(new["output"]).max() <= 0.02)
    [1. 1.] True
    """
    names = _names(layers, "layers")
    _check_known(params, names, "layers")
    return _replaced(params, _fresh(params, key, init), names)


def cascading(
    params: ArrayTree, key: PRNGKey, *, order: Sequence[Layers], init: Initializer | None = None
) -> ArrayTree:
    """Randomize a network from the top down: every stage one more layer, the first one none.

    stage[k] = randomize(params, key, layers=order[:k]), k = 0 … n; stage[0] is the network itself.
    One vmapped call attributes all of them: `jax.vmap(lambda p: method(f, x, args=(label, p)))
    (stages)`. That explains the original label at every stage (Sundararajan & Taly); to explain
    what each network says, take its `jnp.argmax(model(x, p))` as the label there.

    Shapes: `order` has n items, from the output to the input; an item is a name, or several that
    are one layer: `("params/norm", "batch_stats/norm")`. The result is a pytree like params with a
    leading axis of n + 1 stages, all in memory. `init` as for `xattr.sanity.randomize`; normal
    values are no running variances. Raises `ValueError` for names that are not the tree's or that
    overlap.
    Source: Adebayo et al. 2018, "Sanity Checks for Saliency Maps", §3.1; Sundararajan & Taly 2018,
    "A Note About: Local Explanation Methods for Deep Neural Networks Lack Sensitivity to Parameter
    Values".

    >>> import jax, jax.numpy as jnp, xattr
    >>> params, x = {"hidden": jnp.eye(2), "output": jnp.ones(2)}, jnp.array([1.0, 2.0])
    >>> f = lambda x, p: jnp.tanh(x @ p["hidden"]) @ p["output"]
    >>> stages = xattr.sanity.cascading(params, jax.random.key(0), order=["output", "hidden"])
    >>> maps = jax.vmap(lambda p: xattr.gradient_x_input(f, x, args=(p,)))(stages)
    >>> print(maps.shape, maps[0].round(2))
    (3, 2) [0.42 0.14]
    """
    stages = _ordered(params, order)
    return _stacked(params, key, init, [stages[:k] for k in range(len(stages) + 1)])


def independent(
    params: ArrayTree, key: PRNGKey, *, order: Sequence[Layers], init: Initializer | None = None
) -> ArrayTree:
    """Randomize a network one layer at a time: every stage another, the first one none.

    stage[k] = randomize(params, key, layers=order[k−1]), k = 1 … n; stage[0] is the network itself.

    Shapes: the result is a pytree like params with a leading axis of n + 1 stages, n the items of
    `order`; a layer's new values are those of `xattr.sanity.cascading` for the same key. Arguments
    and errors as there.
    Source: Adebayo et al. 2018, "Sanity Checks for Saliency Maps", §3.2.

    >>> import jax, jax.numpy as jnp, xattr
    >>> params = {"hidden": jnp.ones(2), "output": jnp.ones(2)}
    >>> stages = xattr.sanity.independent(params, jax.random.key(0), order=["output", "hidden"])
    >>> print((stages["hidden"] == 1).all(axis=1), (stages["output"] == 1).all(axis=1))
    [ True  True False] [ True False  True]
    """
    stages = _ordered(params, order)
    return _stacked(params, key, init, [[], *([stage] for stage in stages)])


def truncated_normal(
    *, std: float = 0.01, mean: float = 0.0, bias: float | None = None
) -> Initializer:
    """Draw all parameters from a normal distribution cut off at two standard deviations.

    θ = mean + std · z, z ~ N(0, 1) given |z| ≤ 2, so that the deviation of θ is 0.880 std: weights
    and biases alike, as in the paper. `truncated_normal(std=0.1, bias=0.1)` is what its published
    code initialises its networks with.

    Shapes: returns an initialiser `init(params, key) -> pytree like params`, drawn in float32 at
    least, each leaf by a key of its own. If `bias` is given, leaves of fewer than two axes are that
    constant: biases, but scales of normalization too. Raises `ValueError` for std < 0.
    Source: Adebayo et al. 2018, "Sanity Checks for Saliency Maps", §3; its code, train_cnn_models.

    >>> import jax, jax.numpy as jnp, xattr
    >>> init = xattr.sanity.truncated_normal(std=0.1, bias=0.1)
    >>> init({"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, jax.random.key(0))["bias"]
    Array([0.1, 0.1], dtype=float32)
    """
    known = trees.on_host(std)
    if known is not None and not known >= 0:
        raise ValueError(f"`std` must be 0 or more, not {std!r}: it is a standard deviation")
    return functools.partial(_draw, std, mean, bias)


def randomize_labels(labels: Array, key: PRNGKey) -> jax.Array:
    """Shuffle the labels of a training set: for the test against a network that learned nothing.

    y'ᵢ = y_π(i), π a uniformly random permutation: every class stays as frequent as it was. Train a
    second network on it until it fits, and compare the attributions of both for the same inputs.

    Shapes: `labels` has a leading axis of examples, (n,) or one-hot (n, classes); so has the
    result. Raises `ValueError` for a single label.
    Source: Adebayo et al. 2018, "Sanity Checks for Saliency Maps", §4.

    >>> import jax, jax.numpy as jnp, xattr
    >>> xattr.sanity.randomize_labels(jnp.array([0, 1, 1, 2]), jax.random.key(0)).sort()
    Array([0, 1, 1, 2], dtype=int32)
    """
    trees.check_key(key)
    if not jnp.ndim(labels):
        raise ValueError("`labels` must have an axis of examples to shuffle, but is a scalar")
    return jax.random.permutation(key, jnp.asarray(labels))


def _draw(std: Any, mean: Any, bias: Any, params: ArrayTree, key: PRNGKey) -> ArrayTree:
    def draw(path: tuple[Any, ...], leaf: Any) -> Any:
        if not _is_floating(leaf):
            return leaf
        shape, dtype = jnp.shape(leaf), trees.wide(jnp.result_type(leaf))
        if bias is not None and len(shape) < 2:
            return jnp.full(shape, bias, dtype)
        z = jax.random.truncated_normal(_leaf_key(key, _name(path)), -2.0, 2.0, shape, dtype)
        return jnp.asarray(mean, dtype) + jnp.asarray(std, dtype) * z

    return jax.tree_util.tree_map_with_path(draw, params)


def _leaf_key(key: PRNGKey, name: str) -> PRNGKey:
    """Return the key of a leaf: 64 bits of its name, too many for two leaves to share."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    for word in np.frombuffer(digest, "<u4"):
        key = jax.random.fold_in(key, word)
    return key


def _fresh(params: ArrayTree, key: PRNGKey, init: Initializer | None) -> ArrayTree:
    trees.check_key(key)
    fresh = (truncated_normal() if init is None else init)(params, key)
    trees.same_structure(fresh, params, "init(params, key)", "params")
    return fresh


def _stacked(
    params: ArrayTree, key: PRNGKey, init: Initializer | None, choices: list[list[tuple[str, ...]]]
) -> ArrayTree:
    fresh = _fresh(params, key, init)
    stages = [_replaced(params, fresh, sum(choice, ())) for choice in choices]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *stages)


def _replaced(params: ArrayTree, fresh: ArrayTree, names: tuple[str, ...]) -> ArrayTree:
    """Return the parameters with those of the named layers from another network."""

    def chosen(path: tuple[Any, ...], leaf: Any, new: Any) -> Any:
        name = _name(path)
        if not _is_floating(leaf) or not any(_is_within(name, layer) for layer in names):
            return leaf
        if jnp.shape(new) != jnp.shape(leaf):
            raise ValueError(
                f"`init` gives {name!r} the shape {jnp.shape(new)}, but in `params` it has "
                f"{jnp.shape(leaf)}: initialise the same network"
            )
        return jnp.asarray(new, jnp.result_type(leaf))

    return jax.tree_util.tree_map_with_path(chosen, params, fresh)


def _ordered(params: ArrayTree, order: Sequence[Layers]) -> list[tuple[str, ...]]:
    """Return the names of every stage; raise if one is unknown or two overlap."""
    if isinstance(order, str) or not isinstance(order, Iterable):
        raise TypeError(f"`order` must be a sequence of names, not {order!r}: write [{order!r}]")
    stages = [_names(layers, "order") for layers in order]
    names = sum(stages, ())
    _check_known(params, names, "order")
    for i, name in enumerate(names):
        for other in names[:i]:
            if _is_within(name, other) or _is_within(other, name):
                raise ValueError(
                    f"`order` has {other!r} and {name!r}, which overlap: randomise each layer once"
                )
    return stages


def _names(layers: Any, argument: str) -> tuple[str, ...]:
    single = isinstance(layers, str) or not isinstance(layers, Iterable)
    names = (layers,) if single else tuple(layers)  # which reads an iterator only once
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"`{argument}` must name layers, but has {name!r}: write the keys on the way to a "
                "layer, joined by '/', as in 'encoder/0'"
            )
    return names


def _check_known(params: ArrayTree, names: tuple[str, ...], argument: str) -> None:
    """Raise unless every name is that of a leaf or of a tree of leaves, some of them floating."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    known: dict[str, None] = {}
    for parts in (_name(path).split("/") for path, leaf in leaves if _is_floating(leaf)):
        known |= dict.fromkeys("/".join(parts[:end]) for end in range(1, len(parts) + 1))
    for name in names:
        if name not in known:
            inner = [other for other in known if other.endswith(f"/{name}")]
            near = inner[:1] or difflib.get_close_matches(name, known, 1)
            raise ValueError(
                f"`{argument}` has {name!r}, which is no layer of `params` with floating arrays: "
                f"{f'did you mean {near[0]!r}? ' if near else ''}"
                f"Its layers are {[other for other in known if '/' not in other]}, "
                "and a part of one is named as in 'layer/part'"
            )


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_within(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}/")


def _is_floating(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", type(leaf))
    return bool(jnp.issubdtype(dtype, jnp.floating))


# The control --------------------------------------------------------------------------------------


def edge_detector(image: Array) -> jax.Array:
    """Return the strength of an image's edges, a map that looks like an explanation of any model.

    A = √((h² + v²) / 2), h and v the image convolved with the Sobel kernel [1, 2, 1]ᵀ[1, 0, −1] / 4
    and its transpose; beyond the border the image goes on as its outermost pixels do.

    Shapes: `image` is (H, W) or (H, W, C), each channel by itself; so is the result, in units of
    the image. Nothing is random and nothing learned: it stays as it is when parameters or labels
    are randomised. Its own gradient is 0 where A = 0. Raises `ValueError` for other shapes and
    `TypeError` if the image is not floating.
    Source: Adebayo et al. 2018, "Sanity Checks for Saliency Maps", §1 and §5 (edge detector);
    Sobel & Feldman 1968; the scale is that of scikit-image's `filters.sobel`.

    >>> import jax.numpy as jnp, xattr
    >>> xattr.edge_detector(jnp.array([[0.0, 0.0, 1.0, 1.0]])).round(4)
    Array([[0.    , 0.7071, 0.7071, 0.    ]], dtype=float32)
    """
    image = trees.floating(image, "image")
    if not isinstance(image, jax.Array) or image.ndim not in (2, 3):
        found = f"has shape {image.shape}" if isinstance(image, jax.Array) else "is no array"
        raise ValueError(
            f"`image` must be of shape (H, W) or (H, W, C), but {found}: jax.vmap over a batch"
        )
    edges: jax.Array = _sobel(image)
    return edges


@jax.jit
def _sobel(image: jax.Array) -> jax.Array:
    wide = trees.widen(image)
    square = (_slope(wide, 0) ** 2 + _slope(wide, 1) ** 2) / 2
    # The root has no gradient at 0, and an infinite one times 0 would be NaN.
    is_flat = square == 0
    root = jnp.sqrt(jnp.where(is_flat, 1, square))
    return trees.cast(jnp.where(is_flat, 0, root), image)


def _slope(image: jax.Array, axis: int) -> jax.Array:
    """Return differences over two pixels along one axis, smoothed along the other."""
    before, _, after = _neighbours(image, axis)
    left, middle, right = _neighbours(after - before, 1 - axis)
    return (left + 2 * middle + right) / 4


def _neighbours(image: jax.Array, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the pixel before every pixel, the pixel itself, and the one after."""
    widths = [(int(i == axis), int(i == axis)) for i in range(image.ndim)]
    padded, size = jnp.pad(image, widths, mode="edge"), image.shape[axis]
    before, here, after = (
        jax.lax.slice_in_dim(padded, start, start + size, axis=axis) for start in range(3)
    )
    return before, here, after
