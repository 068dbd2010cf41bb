"""Perturbations that keep the label and move the map (Ghorbani, Abid & Zou 2019)."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr import targets
from xattr._core import compilation, trees
from xattr._gradients.gradient import gradient
from xattr.targets import Model
from xattr.types import Args, Array, Method, PRNGKey

__all__ = ["AttackResult", "attack_attributions", "checkerboard", "random_perturbation"]


class AttackResult(NamedTuple):
    """The result of an attack, a tuple of arrays.

    `x` is the best iterate, and `objective` is D there. `initial` is D at the original input, and
    `label` its predicted class. `found` tells whether an iterate with this label had a larger D; if
    not, `x` is the original input.
    """

    x: jax.Array
    objective: jax.Array
    initial: jax.Array
    label: jax.Array
    found: jax.Array


def checkerboard(
    height: int, width: int, *, cell: int = 4, low: float = 0.0, high: float = 1.0
) -> jax.Array:
    """Return an image of checkered boxes: a shift that a constant baseline does not follow.

    image[i, j] = low where ⌊i / cell⌋ + ⌊j / cell⌋ is even, high where it is odd.

    Args:
        height: the number of rows, at least 1.
        width: the number of columns, at least 1.
        cell: the side of a box in pixels, at least 1.
        low: the value of the first box.
        high: the value of its neighbours.

    Returns:
        An array of shape (height, width), in the default floating dtype.

    Raises:
        ValueError: if a size or `cell` is not a whole number of at least 1.

    Source:
        Kindermans, Hooker et al. 2017, "The (Un)reliability of saliency methods", fig. 4.

    Example:
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
    """Return x with noise of the largest size that an attack may use, as a control for it.

    x' = clip(x ± epsilon, low, high), where each sign is + or − with probability ½.

    Args:
        x: the input, one floating array of at least one axis, with values in [low, high].
        key: a random key, `jax.random.key(seed)`.
        epsilon: the size of the noise in units of x, 0 or more.
        low: the least value of the data, a number or an array that broadcasts to x.
        high: the greatest value of the data, a number or an array that broadcasts to x.

    Returns:
        An array like x.

    Raises:
        ValueError: if epsilon < 0, or x is not in [low, high], or is not one array.
        TypeError: if x is not floating, or `key` is not a random key.

    Source:
        Ghorbani, Abid & Zou 2019, "Interpretation of Neural Networks Is Fragile" (random sign).

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> x, key = jnp.full(4, 0.5), jax.random.key(0)
        >>> noisy = xattr.attacks.random_perturbation(x, key, epsilon=0.25)
        >>> jnp.abs(noisy - 0.5)
        Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    x = _image(x, epsilon, low, high)
    trees.check_key(key)
    return _noisy(x, key, epsilon, low, high)


@jax.jit
def _noisy(x: jax.Array, key: PRNGKey, epsilon: Any, low: Any, high: Any) -> jax.Array:
    lower, upper = _ball(x, epsilon, low, high)
    return jnp.where(jax.random.bernoulli(key, shape=x.shape), upper, lower)


def attack_attributions(
    model: Model,
    x: Array,
    key: PRNGKey,
    *,
    method: Method = gradient,
    objective: Literal["top_k", "mass_center"] = "top_k",
    k: int | None = None,
    epsilon: float = 8 / 255,
    step_size: float = 1 / 255,
    iterations: int = 100,
    low: Array | float = 0.0,
    high: Array | float = 1.0,
    surrogate: Model | None = None,
    args: Args = (),
) -> AttackResult:
    """Search the neighbourhood of x for an input with the same label and another explanation.

    xᵖ⁺¹ = clip(xᵖ + step_size · sign ∇D(xᵖ)) onto |x' − x| ≤ epsilon and [low, high].

    Of the iterates xᵖ with the label of x, the one with the largest D is returned. Let A be the map
    of `method` for the score of that label, and s = |A| / Σ|A|, summed over channels. For the
    objective "top_k", D = −Σ s over the k pixels that lead at x. For "mass_center", D is the
    distance in pixels between the centre of mass Σ s·position and that at x.

    x¹ is a random point of the neighbourhood, since the distance has no slope at x; another key
    gives another start. The gradient of a ReLU network is piecewise constant: D has no slope there,
    and the iterates do not move. Pass as `surrogate` the same model with softplus: its maps lead
    the search, and those of `model` are judged.

    Iterates that tie up to rounding may be chosen differently alone and in a batch; their D is
    equal. One program is compiled for each model, surrogate, method, objective, k and iterations.

    Args:
        model: `model(x, *args) -> scores` of shape (classes,), for one example.
        x: the input, one floating array with values in [low, high]. With three axes or more the
            last is the channels.
        key: a random key, `jax.random.key(seed)`.
        method: `method(f, x, args=args)`, which returns a map like x. It is differentiated.
        objective: "top_k" or "mass_center".
        k: the number of leading pixels; one pixel in fifty if None, as the paper's 1,000 of 224².
        epsilon: the largest change of an element, in units of x, 0 or more.
        step_size: the change of an element in one step, in units of x, 0 or more.
        iterations: the number of steps, at least 1.
        low: the least value of the data, a number or an array that broadcasts to x.
        high: the greatest value of the data, a number or an array that broadcasts to x.
        surrogate: a model like `model` whose maps lead the search; `model` itself if None.
        args: further arguments of the model. They are not attributed; a new value does not
            recompile.

    Returns:
        An `AttackResult`. Its D is in float32 at least; it is NaN, and nothing is found, where Σ|A|
        = 0 at x.

    Raises:
        ValueError: if x is not in [low, high], a size is negative, k is not below the number of
            pixels, the objective is unknown, or scores or maps have another shape.
        TypeError: if x is not floating, `args` is not a tuple, or `key` is not a random key.

    Source:
        Ghorbani, Abid & Zou 2019, "Interpretation of Neural Networks Is Fragile", algorithm 1.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> model = lambda x: jnp.stack([jnp.sum(jnp.sin(x)), jnp.prod(x)])
        >>> x = jnp.array([0.5, 0.4, 0.6])
        >>> result = xattr.attacks.attack_attributions(model, x, jax.random.key(0), k=1)
        >>> bool(result.found), int(result.label), bool(result.objective > result.initial)
        (True, 0, True)
    """
    compilation.check_callable(model, "model")
    compilation.check_callable(model if surrogate is None else surrogate, "surrogate")
    compilation.check_callable(method, "method")
    compilation.check_args(args)
    trees.check_key(key)
    trees.check_count(iterations, "iterations")
    trees.check_not_negative(step_size, "step_size")
    x = _image(x, epsilon, low, high)
    if objective not in ("top_k", "mass_center"):
        raise ValueError(f'`objective` must be "top_k" or "mass_center", not {objective!r}')
    pixels = int(np.prod(x.shape[:-1] if x.ndim > 2 else x.shape))
    k = max(1, pixels // 50) if k is None else k
    trees.check_count(k, "k")
    if k >= pixels:
        raise ValueError(f"`k` must be below the number of pixels, {pixels}, but is {k}")
    static = {"surrogate": surrogate, "method": method, "objective": objective, "k": k}
    run = compilation.compiled(attack_kernel, model, **static, iterations=iterations)
    return run(x, key, args, (epsilon, step_size, low, high))


def attack_kernel(
    model: Model,
    x: jax.Array,
    key: PRNGKey,
    args: Args,
    sizes: tuple[Any, ...],
    *,
    surrogate: Model | None,
    method: Method,
    objective: str,
    k: int,
    iterations: int,
) -> AttackResult:
    """Run the attack and return the best iterate; memory does not grow with the iterations."""
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
        # By comparison, since jnp.sign of NaN is NaN: such an element does not move.
        sign = (slope > 0).astype(wide.dtype) - (slope < 0).astype(wide.dtype)
        return jnp.clip(wide + jnp.asarray(step_size, wide.dtype) * sign, lower, upper), best

    lower, upper = trees.widen(_ball(x, epsilon, low, high))
    share = jax.random.uniform(key, x.shape, lower.dtype)
    start = jnp.clip(lower + share * (upper - lower), lower, upper)
    initial = objective_of(original)
    # `found` is False, written so that it varies over the mesh axes that the label varies over.
    best = AttackResult(x, initial, initial, label, label != label)
    return lax.fori_loop(0, iterations, step, (start, best))[1]


def _shares(method: Method, model: Model, x: jax.Array, args: Args) -> jax.Array:
    """Return |A| by pixel, divided by its sum, in float32 at least; args[0] is the label."""
    maps = method(targets.logit(model), x, args=args)
    if jnp.shape(maps) != x.shape:
        raise ValueError(f"`method` must return a map like x, but returned {jnp.shape(maps)}")
    sizes: jax.Array = jnp.abs(trees.widen(maps))
    sizes = sizes.sum(-1) if x.ndim > 2 else sizes
    return sizes / sizes.sum()


def _top_k(original: jax.Array, k: int) -> Callable[[jax.Array], jax.Array]:
    """Return D, minus the share of the k pixels that lead in the original map."""
    _, leading = lax.top_k(original.reshape(-1), k)
    return lambda shares: -shares.reshape(-1)[leading].sum()


def _mass_center(original: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Return D, the distance of the centre of mass from that of the original map."""

    def distance(shares: jax.Array) -> jax.Array:
        moved = shares - original
        iota = [lax.broadcasted_iota(moved.dtype, moved.shape, a) for a in range(moved.ndim)]
        square = (jnp.stack([(moved * position).sum() for position in iota]) ** 2).sum()
        # `where` twice: the slope of a root is infinite at 0, and 0 times that would be NaN.
        return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))

    return distance


def _image(x: Any, epsilon: Any, low: Any, high: Any) -> jax.Array:
    """Return x as one array; raise if it is not in [low, high], unless the values are traced."""
    if not jax.tree_util.all_leaves([x]) or not np.ndim(x):
        raise ValueError("`x` must be one array, of one axis or more: attack one leaf at a time")
    trees.check_not_negative(epsilon, "epsilon")
    image: jax.Array = trees.floating(x, "x")
    if not trees.is_traced(image, low, high):
        known, least, greatest = (np.asarray(v).astype(image.dtype) for v in (image, low, high))
        for name, limit in (("low", least), ("high", greatest)):
            # Broadcast by hand: jnp.broadcast_to would name no argument in its error.
            own, of_x = limit.shape[::-1], known.shape[::-1]
            if limit.ndim > known.ndim or any(
                n not in (1, m) for n, m in zip(own, of_x, strict=False)
            ):
                raise ValueError(f"`{name}` has shape {limit.shape}: pass a number, or one for x")
        if not (least <= greatest).all():
            raise ValueError("`low` must not be above `high`: they are the range of your data")
        if not ((known >= least) & (known <= greatest)).all():
            raise ValueError("`x` must lie in [`low`, `high`]: pass the range of your data")
    return image


def _ball(x: jax.Array, epsilon: Any, low: Any, high: Any) -> tuple[jax.Array, jax.Array]:
    """Return the least and the greatest x' in [low, high] with |x' − x| ≤ epsilon, rounded."""
    center: jax.Array = trees.widen(x)
    size, *limits = (jnp.asarray(value, center.dtype) for value in (epsilon, low, high))
    least, greatest = (jnp.broadcast_to(limit, x.shape) for limit in limits)

    def rounded_inwards(edge: jax.Array) -> jax.Array:
        near = edge.astype(x.dtype)
        wide: jax.Array = trees.widen(near)
        beyond = (jnp.abs(wide - center) > size) | (wide < least) | (wide > greatest)
        nearer = jnp.nextafter(*lax.stop_gradient((near, x)))  # JAX cannot differentiate it
        return near + jnp.where(beyond, nearer - lax.stop_gradient(near), 0)

    lower = jnp.minimum(jnp.maximum(center - size, least), center)
    upper = jnp.maximum(jnp.minimum(center + size, greatest), center)
    return rounded_inwards(lower), rounded_inwards(upper)
