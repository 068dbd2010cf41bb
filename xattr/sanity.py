"""Randomization tests: attributions should change when parameters or labels become random.

A *layer* is named by the keys on the way to it, joined by "/": "conv1", "encoder/block_3",
"conv1/bias". An item of a list has its index as key; a field of a tuple or a module has its name.
An *initialiser* is any `init(params, key) -> pytree like params`. Each layer takes its own part of
that tree, so that its new values do not depend on which other layers are random.
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
"""The name of a layer, or several names that count as one layer."""


def randomize(
    params: ArrayTree, key: PRNGKey, *, layers: Layers, init: Initializer | None = None
) -> ArrayTree:
    """Give the named layers of a network new random parameters, and keep the others.

    θ'ₗ = init(θ, key)ₗ for l in `layers`; θ'ₗ = θₗ for all others.

    The new parameters of a layer depend on `key` and its name alone, not on the other layers. So
    `layers=order[:k]` is stage k of `xattr.sanity.cascading`, without all stages in memory.

    Args:
        params: the parameters, any pytree. Leaves that are not floating stay as they are.
        key: a random key, `jax.random.key(seed)`.
        layers: the name of a layer, or several names. A name is the keys on the way to the layer,
            joined by "/".
        init: an initialiser `init(params, key) -> pytree like params`; `truncated_normal()` if
            None. For the network's own pass for example `lambda params, key: net.init(key,
            x)["params"]`. It makes all layers, of which only the named ones are used.

    Returns:
        A pytree like `params`.

    Raises:
        ValueError: if a name is not in the tree (the error lists the names that are), or if `init`
            returns another structure or other shapes.
        TypeError: if a name is not a string, or `key` is not a random key.

    Source:
        Adebayo et al. 2018, "Sanity Checks for Saliency Maps", §3.

    Example:
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
    """Randomize a network from the output down: each stage randomizes one more layer.

    stage[k] = randomize(params, key, layers=order[:k]), k = 0 … n; stage[0] is the network itself.

    One call under `jax.vmap` attributes all stages, as in the example. With a fixed label it
    explains the original label at every stage (Sundararajan & Taly). To explain what each network
    predicts, take `jnp.argmax(model(x, p))` as the label.

    Args:
        params: the parameters, any pytree. Leaves that are not floating stay as they are.
        key: a random key, `jax.random.key(seed)`.
        order: n items, from the output to the input. An item is the name of a layer, or a tuple of
            names that count as one layer: `("params/norm", "batch_stats/norm")`.
        init: an initialiser `init(params, key) -> pytree like params`; `truncated_normal()` if
            None, which is not suited to running variances: they must be positive.

    Returns:
        A pytree like `params` with a leading axis of n + 1 stages, all in memory.

    Raises:
        ValueError: if a name is not in the tree, or if two names overlap.
        TypeError: if `order` is not a sequence of names, or `key` is not a random key.

    Source:
        Adebayo et al. 2018, "Sanity Checks for Saliency Maps", §3.1; Sundararajan & Taly 2018, "A
        Note About: Local Explanation Methods for Deep Neural Networks Lack Sensitivity to Parameter
        Values".

    Example:
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
    """Randomize a network one layer at a time: each stage randomizes another layer.

    stage[k] = randomize(params, key, layers=order[k−1]), k = 1 … n; stage[0] is the network itself.

    The new parameters of a layer are those of `xattr.sanity.cascading` for the same key.

    Args:
        params: the parameters, any pytree. Leaves that are not floating stay as they are.
        key: a random key, `jax.random.key(seed)`.
        order: n items. An item is the name of a layer, or a tuple of names that count as one layer.
        init: an initialiser `init(params, key) -> pytree like params`; `truncated_normal()` if
            None.

    Returns:
        A pytree like `params` with a leading axis of n + 1 stages, all in memory.

    Raises:
        ValueError: if a name is not in the tree, or if two names overlap.
        TypeError: if `order` is not a sequence of names, or `key` is not a random key.

    Source:
        Adebayo et al. 2018, "Sanity Checks for Saliency Maps", §3.2.

    Example:
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
    """Return an initialiser that draws from a normal distribution cut off at 2 std.

    θ = mean + std · z, z ~ N(0, 1) given |z| ≤ 2, so that the standard deviation of θ is 0.880 std.

    Weights and biases alike are drawn so, as in the paper. Its published code initialises networks
    with `truncated_normal(std=0.1, bias=0.1)`. Each leaf has a random key of its own, and is drawn
    in float32 at least.

    Args:
        std: the standard deviation before the cut, 0 or more.
        mean: the mean.
        bias: if given, leaves of fewer than two axes are this constant: biases, but scales of
            normalization too.

    Returns:
        The initialiser `init(params, key) -> pytree like params`.

    Raises:
        ValueError: if std < 0.

    Source:
        Adebayo et al. 2018, "Sanity Checks for Saliency Maps", §3; its code, train_cnn_models.

    Example:
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
    """Shuffle the labels of a training set, for the test against a network that learned nothing.

    y'ᵢ = y_π(i), π a uniformly random permutation: every class stays as frequent as it was.

    Train a second network on the shuffled labels until it fits them. Then compare the attributions
    of both networks for the same inputs.

    Args:
        labels: integers (n,) or one-hot (n, classes); the leading axis is that of the examples.
        key: a random key, `jax.random.key(seed)`.

    Returns:
        An array like `labels`.

    Raises:
        ValueError: if `labels` is a scalar.
        TypeError: if `key` is not a random key.

    Source:
        Adebayo et al. 2018, "Sanity Checks for Saliency Maps", §4.

    Example:
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
    """Return the random key of a leaf, from 64 bits of a hash of its name."""
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
    """Return the parameters, with those of the named layers taken from another network."""

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
    names = (layers,) if single else tuple(layers)  # an iterator is read only once
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"`{argument}` must name layers, but has {name!r}: write the keys on the way to a "
                "layer, joined by '/', as in 'encoder/0'"
            )
    return names


def _check_known(params: ArrayTree, names: tuple[str, ...], argument: str) -> None:
    """Raise if a name is not that of a leaf or subtree with floating arrays."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    known: dict[str, None] = {}
    for parts in (_name(path).split("/") for path, leaf in leaves if _is_floating(leaf)):
        known |= dict.fromkeys("/".join(parts[:end]) for end in range(1, len(parts) + 1))
    for name in names:
        if name not in known:
            inner = [other for other in known if other.endswith(f"/{name}")]
            near = inner[:1] or difflib.get_close_matches(name, known, 1)
            raise ValueError(
                f"`{argument}` has {name!r}, which is not a layer of `params` with floating arrays"
                f": {f'did you mean {near[0]!r}? ' if near else ''}"
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


# The control: a map that ignores the model --------------------------------------------------------


def edge_detector(image: Array) -> jax.Array:
    """Return the strength of the edges of an image, a map that looks like an explanation.

    A = √((h² + v²) / 2), where h is the image convolved with the Sobel kernel [1, 2, 1]ᵀ[1, 0, −1]
    / 4, and v the image convolved with its transpose.

    It does not depend on a model: it does not change when parameters or labels are randomised.
    Beyond the border the image goes on with its outermost pixels. The gradient of A is 0 where A =
    0.

    Args:
        image: a floating array of shape (H, W) or (H, W, C); channels are taken one by one.

    Returns:
        A map of the shape of the image, in units of the image.

    Raises:
        ValueError: for another shape.
        TypeError: if the image is not floating.

    Source:
        Adebayo et al. 2018, "Sanity Checks for Saliency Maps", §1 and §5 (edge detector); Sobel &
        Feldman 1968; the scale is that of scikit-image's `filters.sobel`.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> xattr.edge_detector(jnp.array([[0.0, 0.0, 1.0, 1.0]])).round(4)
        Array([[0.    , 0.7071, 0.7071, 0.    ]], dtype=float32)
    """
    image = trees.floating(image, "image")
    if not isinstance(image, jax.Array) or image.ndim not in (2, 3):
        found = f"has shape {image.shape}" if isinstance(image, jax.Array) else "is not an array"
        raise ValueError(
            f"`image` must be of shape (H, W) or (H, W, C), but {found}: jax.vmap over a batch"
        )
    return _sobel(image)


@jax.jit
def _sobel(image: jax.Array) -> jax.Array:
    wide = trees.widen(image)
    square = (_slope(wide, 0) ** 2 + _slope(wide, 1) ** 2) / 2
    # The slope of the root is infinite at 0, and times 0 it would be NaN.
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
