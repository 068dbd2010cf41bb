"""Learned masks: which part of an image has to go, or has to stay, for the score."""

import functools
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr._core import compilation, trees
from xattr.types import Args, Array, Function, PRNGKey

Game: TypeAlias = Literal["delete", "preserve"]
"""What the mask marks: what has to go for a low score, or has to stay for a high one."""

GAMES = ("delete", "preserve")
PRESSURES = (0.1, 300.0)
"""Weight of the area at the first and the last step. At first the score decides which cells rank
high; at last the area decides how large they are. (The paper's weight grows from 300 for scores
that are larger: at once so large, the area would rank the cells by their number.)"""
DECAY, DECAY_OF_SQUARES, TINY = 0.9, 0.999, 1e-8
"""Of Adam."""
HALVINGS = 40


class _Search(NamedTuple):
    """The mask so far, and Adam's two moments of its gradient."""

    grid: jax.Array
    mean: jax.Array
    square: jax.Array


def meaningful_perturbation(
    f: Function,
    x: Array,
    baseline: Array | None,
    key: PRNGKey,
    *,
    area: float | None = None,
    game: Game = "delete",
    grid: tuple[int, int] = (28, 28),
    num_steps: int = 300,
    learning_rate: float = 0.1,
    sparsity: float = 0.08,
    smoothness: float = 8.0,
    exponent: float = 3.0,
    jitter: int = 4,
    args: Args = (),
) -> Array:
    """Learn a mask of the smallest part of an image that decides the score.

    "delete": min f((1 − m) x + m b) + R(m); "preserve": min −f(m x + (1 − m) b) + R(m); over masks
    m in [0, 1] of `grid` cells, interpolated to the size of the image. b is the baseline.

    Without `area`, R = sparsity · mean m + smoothness · mean (|∂₁m|^β + |∂₂m|^β), β = exponent.
    With `area`, R = λ · mean (sort(m) − r)², where the area's share of r is 1 and the rest 0, and λ
    grows from .1 to 300. The mean of m is then the area.

    It finds a local minimum by Adam from m = ½. The weights suit an f between 0 and 1, such as
    `xattr.targets.probability`. A constant f has m = 0 without `area`.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, one image (H, W, C), floating.
        baseline: an array that broadcasts to x, such as the blurred image. None is zeros.
        key: a random key, `jax.random.key(seed)`, for the jitter.
        area: the share of the image that the mask covers, between 0 and 1. None leaves it to
            `sparsity`.
        game: "delete" or "preserve".
        grid: rows and columns of cells of the mask.
        num_steps: steps of Adam, each of which is one gradient of f.
        learning_rate: the rate of Adam.
        sparsity: the weight of the mask's mean; .08 is the paper's 1e-4 for a sum of 28 × 28.
        smoothness: the weight of the total variation; 8 is the paper's 1e-2 for such a sum.
        exponent: β of the total variation.
        jitter: the mask moves by up to so many pixels at each step, so that it does not find
            artefacts of single pixels.
        args: further arguments of f. They are not attributed; a new value does not recompile.

    Returns:
        An array (H, W) in [0, 1]: large where the image decides the score. It is a share, not in
        units of f.

    Raises:
        ValueError: if x is not one image, or an option is out of its range.
        TypeError: if x is not floating, `key` is not a key, or `args` is not a tuple.

    Source:
        Fong & Vedaldi 2017, "Interpretable explanations of black boxes by meaningful perturbation",
        eq. 3 and 4; with `area`, Fong, Patrick & Vedaldi 2019, "Understanding deep networks via
        extremal perturbations and smooth masks", eq. 3 (which smooths by a maximum of Gaussians).

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x: x[:4, :4].mean()
        >>> x = jnp.ones((8, 8, 1))
        >>> options = {"grid": (8, 8), "jitter": 0, "area": 0.25}
        >>> mask = xattr.meaningful_perturbation(f, x, None, jax.random.key(0), **options)
        >>> float(mask[:4, :4].sum() / mask.sum()) > 0.9
        True
    """
    x = trees.floating(x, "x")
    _check(x, area, game, grid, learning_rate, exponent)
    trees.check_count(num_steps, "num_steps")
    trees.check_key(key)
    if jitter != 0:
        trees.check_count(jitter, "jitter", "; 0 for none")
    weights = (learning_rate, sparsity, smoothness, exponent, 0.0 if area is None else area)
    options = {"game": game, "grid": grid, "num_steps": num_steps, "jitter": jitter}
    run = compilation.compiled(mask_kernel, f, has_area=area is not None, **options)
    start = jnp.zeros_like(x) if baseline is None else trees.floating(baseline, "baseline")
    mask: jax.Array = run(x, start, key, weights, args)
    return mask


def _check(x: Any, area: Any, game: Any, grid: Any, learning_rate: Any, exponent: Any) -> None:
    if not isinstance(x, jax.Array) or x.ndim != 3:
        found = f"has shape {x.shape}" if isinstance(x, jax.Array) else f"is {trees.type_of(x)}"
        raise ValueError(f"`x` must be one image (H, W, C), but it {found}: for a batch use vmap")
    if game not in GAMES:
        raise ValueError(f'`game` must be "delete" or "preserve", not {game!r}')
    if not (isinstance(grid, tuple) and len(grid) == 2 and all(int(n) >= 1 for n in grid)):
        raise ValueError(f"`grid` must be a pair of numbers of cells, such as (28, 28), not {grid}")
    known = trees.on_host(area) if area is not None else None
    if known is not None and not 0 < known < 1:
        raise ValueError(f"`area` must lie between 0 and 1, not {area!r}: a share of the image")
    for name, value in (("learning_rate", learning_rate), ("exponent", exponent)):
        known = trees.on_host(value)
        if known is not None and not known > 0:
            raise ValueError(f"`{name}` must be positive, not {value!r}")


def mask_kernel(
    f: Function,
    x: jax.Array,
    baseline: jax.Array,
    key: PRNGKey,
    weights: tuple[Any, ...],
    args: Args,
    *,
    game: Game,
    grid: tuple[int, int],
    num_steps: int,
    jitter: int,
    has_area: bool,
) -> jax.Array:
    """Return the mask at the size of the image, in its dtype."""
    dtype = trees.wide(x.dtype)
    size = x.shape[:2]
    wide = x.astype(dtype)
    baseline = jnp.broadcast_to(baseline, x.shape).astype(dtype)
    weights = tuple(jnp.asarray(weight, dtype) for weight in weights)
    rate, sparsity, smoothness, exponent, area = weights

    def loss(cells: jax.Array, step: Any) -> jax.Array:
        mask = _upsampled(cells, size)
        shown = _moved(mask, jax.random.fold_in(key, step), jitter) if jitter else mask
        kept = (shown if game == "preserve" else 1 - shown)[..., None]
        picture = (kept * wide + (1 - kept) * baseline).astype(x.dtype)
        score = jnp.asarray(f(picture, *args), dtype)
        score = -score if game == "preserve" else score
        if has_area:
            first, last = PRESSURES
            pressure = first * (last / first) ** (step.astype(dtype) / num_steps)
            return score + pressure * _off_area(mask, area)
        return score + sparsity * cells.mean() + smoothness * _variation(cells, exponent)

    def stepped(search: _Search, step: Any) -> tuple[_Search, None]:
        return _adam(search, jax.grad(loss)(search.grid, step), step, rate), None

    cells = jnp.full(grid, 0.5, dtype) + 0 * wide.sum()  # varies over a mesh as x does
    start = _Search(cells, jnp.zeros_like(cells), jnp.zeros_like(cells))
    end, _ = lax.scan(stepped, start, jnp.arange(num_steps))
    mask = _upsampled(end.grid, size)
    return (_of_area(mask, area) if has_area else mask).astype(x.dtype)


def _adam(search: _Search, gradient: jax.Array, step: Any, rate: Any) -> _Search:
    """Take one step of Adam, and stay in [0, 1]."""
    mean = DECAY * search.mean + (1 - DECAY) * gradient
    square = DECAY_OF_SQUARES * search.square + (1 - DECAY_OF_SQUARES) * gradient**2
    count = (step + 1).astype(gradient.dtype)
    unbiased = mean / (1 - DECAY**count)
    spread = jnp.sqrt(square / (1 - DECAY_OF_SQUARES**count))
    moved = search.grid - rate * unbiased / (spread + TINY)
    return _Search(jnp.clip(moved, 0, 1), mean, square)


@functools.partial(jax.jit, static_argnums=1)
def _upsampled(cells: jax.Array, size: tuple[int, int]) -> jax.Array:
    return jax.image.resize(cells, size, "linear")


def _moved(mask: jax.Array, key: PRNGKey, jitter: int) -> jax.Array:
    """Move a mask by up to `jitter` pixels along both axes; edges repeat."""
    place = jax.random.randint(key, (2,), 0, 2 * jitter + 1)
    return lax.dynamic_slice(jnp.pad(mask, jitter, mode="edge"), place, mask.shape)


def _variation(cells: jax.Array, exponent: Any) -> jax.Array:
    """Return the mean over cells of |∂₁m|^β + |∂₂m|^β."""

    def powers(apart: jax.Array) -> jax.Array:
        # The power's slope at 0 is NaN for some exponents, times a slope of 0.
        size = jnp.abs(apart)
        return jnp.where(size > 0, jnp.where(size > 0, size, 1) ** exponent, 0).sum()

    total = powers(jnp.diff(cells, axis=0)) + powers(jnp.diff(cells, axis=1))
    return total / cells.size


def _off_area(mask: jax.Array, area: Any) -> jax.Array:
    """Return the mean squared distance of the sorted mask to one of 0 and 1 with the area."""
    places = np.arange(mask.size, dtype=np.float32) / mask.size
    wanted = (places >= 1 - area).astype(mask.dtype)
    return jnp.mean((jnp.sort(mask.ravel()) - wanted) ** 2)


def _of_area(mask: jax.Array, area: Any) -> jax.Array:
    """Shift the mask by one number, within [0, 1], so that its mean is the area."""

    def halved(bounds: tuple[jax.Array, jax.Array], _: Any) -> tuple[Any, None]:
        low, high = bounds
        middle = (low + high) / 2
        too_much = jnp.clip(mask + middle, 0, 1).mean() > area
        return (jnp.where(too_much, low, middle), jnp.where(too_much, middle, high)), None

    ends = (jnp.full_like(mask[0, 0], -1), jnp.full_like(mask[0, 0], 1))
    (low, high), _ = lax.scan(halved, ends, None, HALVINGS)
    return jnp.clip(mask + (low + high) / 2, 0, 1)
