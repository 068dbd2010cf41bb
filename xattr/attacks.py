"""Attacks on attributions: the prediction stays, its explanation does not.

A shift of the data that the first layer's bias undoes (Kindermans, Hooker et al. 2017), and small
perturbations of the input that keep the label and move the map (Ghorbani, Abid & Zou 2019).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr import functions, targets, trees
from xattr.gradients import gradient
from xattr.targets import Model
from xattr.types import Array, ArrayTree, Function, PRNGKey

__all__ = [
    "AttackResult",
    "attack_attributions",
    "checkerboard",
    "mean_shift",
    "random_perturbation",
    "targeted_shift",
]


class AttackResult(NamedTuple):
    """The best iterate, D there and at the original input, their label, and whether one was found.

    Where `found` is False no iterate with the label had a larger D, and `x` is the original.
    """

    x: jax.Array
    objective: jax.Array
    initial: jax.Array
    label: jax.Array
    found: jax.Array


def mean_shift(
    params: ArrayTree,
    m: Array | float,
    *,
    layer: str,
    strides: int | Sequence[int] = 1,
    padding: Literal["VALID", "SAME"] | Sequence[tuple[int, int]] = "VALID",
) -> ArrayTree:
    """Return the parameters of the same network for data shifted by m.

    b₂ = b₁ − Wᵀm in the first layer, so that f₂(x + m) = f₁(x) for every x, up to rounding.

    Shapes: `layer` is the path of keys, joined by "/", to the `kernel` and `bias` of the layer that
    sees the data, channels last. Dense: kernel (in, out); m of any shape with `in` elements, as x
    is flattened row by row, or a number. Convolution: kernel (*window, in, out), undilated; m of
    the shape of one x, or constant: a number or (in,); `strides` and `padding` are the layer's. The
    bias is (out,) where m adds the same at every position, as a constant m does with "VALID", or
    untied, like the output. The result is `params` with another bias, all else the same objects.
    Raises `ValueError` for an unknown layer, one without bias, an m that does not fit, and a bias
    that cannot undo it exactly; inside a trace one of shape (out,) needs a number or m (in,).
    Source: Kindermans, Hooker et al. 2017, "The (Un)reliability of saliency methods", §2.

    >>> import jax.numpy as jnp, xattr
    >>> params = {"Dense_0": {"kernel": jnp.array([[1.0], [2.0]]), "bias": jnp.zeros(1)}}
    >>> xattr.attacks.mean_shift(params, -1.0, layer="Dense_0")["Dense_0"]["bias"]
    Array([3.], dtype=float32)
    """
    name, kernel, bias = _layer(params, layer)
    m = m if isinstance(m, jax.Array) else np.asarray(m)
    if not any(jnp.issubdtype(m.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise TypeError(f"`m` must be numbers to add to the data, but has dtype {m.dtype}")
    wide = kernel.astype(trees.widest([kernel, bias]))
    if kernel.ndim == 2:  # a window of one
        wide, m, strides, padding = wide[None], m.reshape(-1) if m.ndim else m, 1, "VALID"
    change = _response(wide, m, bias.shape, strides, padding)
    if change.shape != bias.shape:
        raise ValueError(f"`bias` must have shape {change.shape}, but has {bias.shape}")
    shifted = (bias.astype(wide.dtype) - change).astype(bias.dtype)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: shifted if _name(path) == name else leaf, params
    )


def _layer(params: ArrayTree, layer: str) -> tuple[str, jax.Array, jax.Array]:
    """Return the name of a layer's bias, its kernel and its bias."""
    leaves = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    names = [name[:-7] for name in leaves if f"/{name}".endswith("/kernel")]
    if layer not in names:
        raise ValueError(
            f"`layer` {layer!r} is not in `params`: the layers with a kernel are {sorted(names)}"
        )
    kernel, bias = (f"{layer}/{part}".removeprefix("/") for part in ("kernel", "bias"))
    if bias not in leaves:
        raise ValueError(f"`layer` {layer!r} has no `bias` to undo the shift: add one of zeros")
    return bias, jnp.asarray(leaves[kernel]), jnp.asarray(leaves[bias])


def _name(path: tuple[Any, ...]) -> str:
    return str(jax.tree_util.keystr(path, simple=True, separator="/"))


_NOT_EXACT = (
    '`m` cannot be undone by the `bias`, since {}: use padding "VALID" with a constant m and a '
    "bias per channel, or m in the shape of one example with an untied bias, like the output"
)


def _response(
    kernel: jax.Array, m: Array, bias: tuple[int, ...], strides: Any, padding: Any
) -> jax.Array:
    """Return what the shift adds to the output: per channel, or in full for an untied bias."""
    *window, channels, out = kernel.shape
    constant = m.ndim <= 1
    shape = (*window, channels) if constant else m.shape  # one window stands for all
    if m.shape[-1:] not in ((), (channels,)) or len(shape) != kernel.ndim - 1:
        raise ValueError(
            f"`m` has shape {m.shape}, which does not fit {channels} features or channels: "
            f"pass a number, shape ({channels},) or the shape of one example"
        )
    steps, pads = _geometry(shape, window, strides, padding)
    if constant and bias != (out,):
        raise ValueError(_NOT_EXACT.format(f"it is constant, but the bias has shape {bias}"))
    if constant and (np.any(pads) or (padding == "SAME" and max(window) > 1)):
        raise ValueError(_NOT_EXACT.format("the padding adds zeros, not m, at the borders"))
    axes = "".join(map(chr, range(ord("a"), ord("a") + len(window))))
    layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    image = jnp.broadcast_to(jnp.asarray(m).astype(kernel.dtype), shape)[None]
    response: jax.Array = lax.conv_general_dilated(
        image, kernel, steps, pads, dimension_numbers=layout, precision="highest"
    )[0]
    if not response.size:
        raise ValueError(f"`m` has shape {shape}, smaller than the window {tuple(window)}")
    if bias != (out,):
        return response
    if response.size > out:  # more positions than one
        if trees.is_traced(m):
            raise ValueError(_NOT_EXACT.format("inside a trace the values of m are not known"))
        if not _same_everywhere(np.asarray(m), window, steps, pads):
            raise ValueError(_NOT_EXACT.format("what it adds differs from position to position"))
    return response.reshape(-1, out)[0]


def _geometry(
    shape: tuple[int, ...], window: list[int], strides: Any, padding: Any
) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """Return strides and padding for every axis of the window."""
    axes = len(window)
    steps = (strides,) * axes if isinstance(strides, int) else tuple(strides)
    if len(steps) != axes or min(steps) < 1:
        raise ValueError(f"`strides` must be {axes} whole numbers of at least 1, not {strides!r}")
    if padding in ("VALID", "SAME"):
        return steps, list(lax.padtype_to_pads(shape[:-1], window, steps, padding))
    if isinstance(padding, str) or np.shape(padding) != (axes, 2) or np.min(padding) < 0:
        raise ValueError(f'`padding` must be "VALID", "SAME" or {axes} pairs, not {padding!r}')
    return steps, [(before, after) for before, after in padding]


def _same_everywhere(
    m: np.ndarray, window: list[int], strides: tuple[int, ...], pads: list[tuple[int, int]]
) -> bool:
    """Tell whether the kernel sees the same values at every position."""
    padded, axes = np.pad(m, [*pads, (0, 0)]), tuple(range(len(window)))
    views = np.lib.stride_tricks.sliding_window_view(padded, tuple(window), axes)
    seen = views[tuple(slice(None, None, step) for step in strides)]
    return bool((seen == seen[(slice(1),) * len(axes)]).all())


def targeted_shift(
    f: Function,
    x: ArrayTree,
    target: ArrayTree,
    *,
    limit: float | None = 0.3,
    args: tuple[Any, ...] = (),
) -> ArrayTree:
    """Return the shift of the data after which gradient × input of x is the map you want.

    m = clip(ŝ / ∇f(x) − x, −limit, limit), with ŝ the target; 0 where ∂ᵢf = 0. Without a limit
    gradient × input of the network for shifted data (`xattr.attacks.mean_shift`) is ŝ at x + m
    wherever ∂ᵢf ≠ 0; with one it is where nothing was clipped.

    Shapes: `f(x, *args)` returns a scalar for one example; `target` is a pytree like x, in units of
    f, and so is the result, in units of x. `limit` None is none; m is 0, too, where it would then
    be too large for its dtype. Raises `ValueError` for a target unlike x and a negative limit.
    Source: Kindermans, Hooker et al. 2017, "The (Un)reliability of saliency methods", §4, fig. 5.

    >>> import jax.numpy as jnp, xattr
    >>> f = lambda x: 2 * x[0] - x[1]
    >>> xattr.attacks.targeted_shift(f, jnp.ones(3), jnp.full(3, 2.5), limit=1.0)
    Array([ 0.25, -1.  ,  0.  ], dtype=float32)
    """
    x = trees.floating(x, "x")
    target = trees.like(target, x, "target")
    limit = np.inf if limit is None else limit
    _check_not_negative(limit, "limit")
    slopes = gradient(f, x, args=args)
    shifts = jax.tree.map(functools.partial(_shift, limit), *trees.widen((x, target, slopes)))
    return trees.cast_like(shifts, x)


@jax.jit
def _shift(limit: Any, x: jax.Array, target: jax.Array, slope: jax.Array) -> jax.Array:
    bound = jnp.asarray(limit, x.dtype)
    raw = lax.stop_gradient(target / jnp.where(slope == 0, 1, slope) - x)
    inside = (slope != 0) & (jnp.abs(raw) <= bound) & jnp.isfinite(raw)
    clipped = jnp.clip(raw, -bound, bound)
    outside = jnp.where((slope == 0) | jnp.isinf(clipped), 0, clipped)
    # Divided once more, by 1 where clipped: the derivative there is 0, not 0 · ∞.
    return jnp.where(inside, target / jnp.where(inside, slope, 1) - x, outside)


def checkerboard(
    height: int, width: int, *, cell: int = 4, low: float = 0.0, high: float = 1.0
) -> jax.Array:
    """Return an image of checkered boxes, a shift that no constant baseline follows.

    image[i, j] = low where ⌊i / cell⌋ + ⌊j / cell⌋ is even, high where it is odd.

    Shapes: (height, width), in the default floating dtype; `cell` is in pixels. Raises `ValueError`
    for a size or cell that is not a whole number of at least 1.
    Source: Kindermans, Hooker et al. 2017, "The (Un)reliability of saliency methods", fig. 4.

    >>> import xattr
    >>> xattr.attacks.checkerboard(2, 4, cell=2, high=0.5)
    Array([[0. , 0. , 0.5, 0.5],
           [0. , 0. , 0.5, 0.5]], dtype=float32)
    """
    for name, value in (("height", height), ("width", width), ("cell", cell)):
        trees.check_count(value, name)
    rows, columns = np.arange(height)[:, None] // cell, np.arange(width)[None] // cell
    odd = (rows + columns) % 2 == 1
    return jnp.asarray(jnp.where(odd, high, low), jnp.result_type(float))


def random_perturbation(
    x: Array,
    key: PRNGKey,
    *,
    epsilon: float = 8 / 255,
    low: Array | float = 0.0,
    high: Array | float = 1.0,
) -> jax.Array:
    """Return x with noise of the largest size that an attack may have: its control.

    x' = clip(x ± epsilon, low, high), every sign + or − with probability ½.

    Shapes: as for `xattr.attacks.attack_attributions`. Raises `ValueError` for a negative epsilon
    and an x outside of [low, high].
    Source: Ghorbani, Abid & Zou 2019, "Interpretation of Neural Networks Is Fragile" (random sign).

    >>> import jax, jax.numpy as jnp, xattr
    >>> noisy = xattr.attacks.random_perturbation(jnp.full(4, 0.5), jax.random.key(0), epsilon=0.25)
    >>> jnp.abs(noisy - 0.5)
    Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    x = _image(x, epsilon, low, high)
    trees.check_key(key)
    noisy: jax.Array = _noisy(x, key, epsilon, low, high)
    return noisy


@jax.jit
def _noisy(x: jax.Array, key: PRNGKey, epsilon: Any, low: Any, high: Any) -> jax.Array:
    lower, upper = _ball(x, epsilon, low, high)
    return jnp.where(jax.random.bernoulli(key, shape=x.shape), upper, lower)


def attack_attributions(
    model: Model,
    x: Array,
    key: PRNGKey,
    *,
    method: Callable[..., Any] = gradient,
    objective: Literal["top_k", "mass_center"] = "top_k",
    k: int | None = None,
    epsilon: float = 8 / 255,
    step_size: float = 1 / 255,
    iterations: int = 100,
    low: Array | float = 0.0,
    high: Array | float = 1.0,
    surrogate: Model | None = None,
    args: tuple[Any, ...] = (),
) -> AttackResult:
    """Search the neighbourhood of x for an input with the same label and another explanation.

    xᵖ⁺¹ = clip(xᵖ + step_size · sign ∇D(xᵖ)) onto |x' − x| ≤ epsilon and [low, high]. Of the xᵖ
    whose label is that of x the one with the largest D is returned. With s = |A| / Σ|A| the map of
    `method` for the score of that label, D = −Σ s over the k pixels that lead at x ("top_k"), or
    the distance in pixels of the centre of mass Σ s·position from that at x ("mass_center").

    Shapes: `model(x, *args)` returns scores (classes,) for one example. x is one array; of three
    axes or more the last is channels, and |A| is summed over them. `low` and `high` are numbers or
    broadcast to x. `method(f, x, args=args)` returns a map like x and is differentiated. The
    gradient of a ReLU network is constant in pieces: D has no slope and the iterates do not move;
    pass as `surrogate` the same model with softplus, whose maps lead the search while those of
    `model` are judged. x¹ is a random point of the ball, for the distance has no slope at x;
    another key is another start. `k` None is one pixel in fifty, as the paper's 1,000 of 224². The
    result's `objective` is D in float32 at least: NaN, and nothing found, where Σ|A| = 0 at x.
    One program is compiled for each model, surrogate, method, objective, k and iterations.
    Raises `ValueError` for an x outside of [low, high], a k that is not below the number of pixels,
    scores or maps of other shapes, negative sizes and an unknown objective.
    Source: Ghorbani, Abid & Zou 2019, "Interpretation of Neural Networks Is Fragile", algorithm 1.

    >>> import jax, jax.numpy as jnp, xattr
    >>> model = lambda x: jnp.stack([jnp.sum(jnp.sin(x)), jnp.prod(x)])
    >>> x = jnp.array([0.5, 0.4, 0.6])
    >>> result = xattr.attacks.attack_attributions(model, x, jax.random.key(0), k=1)
    >>> bool(result.found), int(result.label), bool(result.objective > result.initial)
    (True, 0, True)
    """
    functions.check_callable(model, "model")
    functions.check_callable(model if surrogate is None else surrogate, "surrogate")
    functions.check_callable(method, "method")
    functions.check_args(args)
    trees.check_key(key)
    trees.check_count(iterations, "iterations")
    _check_not_negative(step_size, "step_size")
    x = _image(x, epsilon, low, high)
    if objective not in ("top_k", "mass_center"):
        raise ValueError(f'`objective` must be "top_k" or "mass_center", not {objective!r}')
    pixels = int(np.prod(x.shape[:-1] if x.ndim > 2 else x.shape))
    k = max(1, pixels // 50) if k is None else k
    trees.check_count(k, "k")
    if k >= pixels:
        raise ValueError(f"`k` must be below the number of pixels, {pixels}, but is {k}")
    bound = functools.partial(_options, model, surrogate, method, objective, k, iterations)
    run = functions.compiled(attack_kernel, bound)
    result: AttackResult = run(x, key, args, (epsilon, step_size, low, high))
    return result


def _options(*options: Any) -> tuple[Any, ...]:
    """Hold functions and options together, for `functions.compiled`."""
    return options


def attack_kernel(
    bound: Any, x: jax.Array, key: PRNGKey, args: tuple[Any, ...], sizes: tuple[Any, ...]
) -> AttackResult:
    """Run the attack and return the best iterate; memory does not grow with the iterations."""
    model, surrogate, method, objective, k, iterations = bound()
    epsilon, step_size, low, high = sizes
    label = jnp.argmax(targets.scores_of(model, x, args))
    original = _shares(method, model, x, (label, *args))
    objective_of = _top_k(original, k) if objective == "top_k" else _mass_center(original)

    def judged(by: Model, point: jax.Array) -> jax.Array:
        return objective_of(_shares(method, by, point, (label, *args)))

    def look(point: jax.Array) -> tuple[jax.Array, jax.Array]:
        if surrogate is None:
            return jax.value_and_grad(functools.partial(judged, model))(point)
        return judged(model, point), jax.grad(functools.partial(judged, surrogate))(point)

    def step(_: Any, state: tuple[jax.Array, AttackResult]) -> tuple[jax.Array, AttackResult]:
        wide, best = state
        point = trees.cast(wide, x)
        value, slope = look(point)
        better = (jnp.argmax(targets.scores_of(model, point, args)) == label) & (
            value > best.objective
        )
        best = best._replace(
            x=jnp.where(better, point, best.x),
            objective=jnp.where(better, value, best.objective),
            found=best.found | better,
        )
        # By comparison, not by jnp.sign: a slope that is not a number is no direction.
        sign = (slope > 0).astype(wide.dtype) - (slope < 0).astype(wide.dtype)
        return jnp.clip(wide + jnp.asarray(step_size, wide.dtype) * sign, lower, upper), best

    lower, upper = trees.widen(_ball(x, epsilon, low, high))
    share = jax.random.uniform(key, x.shape, lower.dtype)
    start = jnp.clip(lower + share * (upper - lower), lower, upper)
    initial = objective_of(original)
    best = AttackResult(x, initial, initial, label, jnp.zeros((), bool))
    found: AttackResult = lax.fori_loop(0, iterations, step, (start, best))[1]
    return found


def _shares(method: Any, model: Model, x: jax.Array, args: tuple[Any, ...]) -> jax.Array:
    """Return |A| by pixel, as shares of its sum, in float32 at least; args[0] is the label."""
    maps = method(targets.logit(model), x, args=args)
    if jnp.shape(maps) != x.shape:
        raise ValueError(f"`method` must return a map like x, but returned {jnp.shape(maps)}")
    sizes: jax.Array = jnp.abs(trees.widen(maps))
    sizes = sizes.sum(-1) if x.ndim > 2 else sizes
    return sizes / sizes.sum()


def _top_k(original: jax.Array, k: int) -> Callable[[jax.Array], jax.Array]:
    """Return D = − the share of the k pixels that lead in the original map."""
    _, leading = lax.top_k(original.reshape(-1), k)
    return lambda shares: -shares.reshape(-1)[leading].sum()


def _mass_center(original: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Return D = the distance of the centre of mass from that of the original map."""

    def distance(shares: jax.Array) -> jax.Array:
        moved = shares - original
        iota = [lax.broadcasted_iota(moved.dtype, moved.shape, a) for a in range(moved.ndim)]
        square = (jnp.stack([(moved * position).sum() for position in iota]) ** 2).sum()
        # Two choices, for a slope of 0 and not NaN where nothing has moved.
        return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))

    return distance


def _image(x: Any, epsilon: Any, low: Any, high: Any) -> jax.Array:
    """Return x as one array; raise unless it lies in the range, where that can be looked at."""
    if not jax.tree_util.all_leaves([x]) or not np.ndim(x):
        raise ValueError("`x` must be one array, of one axis or more: attack one leaf at a time")
    _check_not_negative(epsilon, "epsilon")
    image: jax.Array = trees.floating(x, "x")
    if not trees.is_traced(image, low, high):
        known, least, greatest = (np.asarray(v).astype(image.dtype) for v in (image, low, high))
        if not ((known >= least) & (known <= greatest)).all():
            raise ValueError("`x` must lie in [`low`, `high`]: pass the range of your data")
    return image


def _ball(x: jax.Array, epsilon: Any, low: Any, high: Any) -> tuple[jax.Array, jax.Array]:
    """Return the least and the greatest x' with |x' − x| ≤ epsilon in [low, high], as computed."""
    center: jax.Array = trees.widen(x)
    size, *limits = (jnp.asarray(value, center.dtype) for value in (epsilon, low, high))
    least, greatest = (jnp.broadcast_to(limit, x.shape) for limit in limits)

    def rounded_inwards(edge: jax.Array) -> jax.Array:
        near = edge.astype(x.dtype)
        wide: jax.Array = trees.widen(near)
        beyond = (jnp.abs(wide - center) > size) | (wide < least) | (wide > greatest)
        nearer = jnp.nextafter(*lax.stop_gradient((near, x)))  # it has no derivative
        return near + jnp.where(beyond, nearer - lax.stop_gradient(near), 0)

    lower = jnp.minimum(jnp.maximum(center - size, least), center)
    upper = jnp.maximum(jnp.minimum(center + size, greatest), center)
    return rounded_inwards(lower), rounded_inwards(upper)


def _check_not_negative(value: Any, name: str) -> None:
    known = trees.on_host(value)
    if known is not None and not (known >= 0).all():
        raise ValueError(f"`{name}` must be 0 or more, not {value!r}")
