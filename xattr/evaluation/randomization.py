"""Whether a map changes when the class or the parameters do, as one number for each network."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

from xattr import metrics, targets
from xattr._core import compilation, trees
from xattr._gradients import noise
from xattr.types import Args, Array, ArrayTree, Function, Method, PRNGKey

Similarity: TypeAlias = Callable[[ArrayTree, ArrayTree], Array]
"""`similarity(map, map) -> scalar`, 1 for equal maps."""


def random_logit(
    method: Method,
    model: Function,
    x: ArrayTree,
    label: Array,
    key: PRNGKey,
    *,
    similarity: Similarity | None = None,
    args: Args = (),
) -> jax.Array:
    """Return how alike the maps for a class and for another, random class are.

    S = similarity(Φ(f_label, x), Φ(f_c, x)), with f_c the score of class c, and c uniform among the
    other classes.

    From −1 to 1 for a correlation; smaller is better: a map that ignores the class explains no
    decision. Two classes that a network tells from others by the same features have alike maps for
    a good reason.

    Args:
        method: the attribution method, called as `method(f, x, args=args)`. Bind further arguments
            with `functools.partial`.
        model: scores of all classes, `model(x, *args) -> (classes,)`, for one example.
        x: the input, a pytree of floating arrays.
        label: the class, a whole number.
        key: a random key, `jax.random.key(seed)`.
        similarity: of two maps. None is `xattr.metrics.spearman` over all elements.
        args: further arguments of the model. A new value does not recompile.

    Returns:
        A scalar without a unit; NaN where the similarity is not defined.

    Raises:
        ValueError: if the model does not return one vector of at least two classes.
        TypeError: if `key` is not a key, or `args` is not a tuple.

    Source:
        Sixt et al. 2020, "When explanations lie: why many modified BP attributions fail", §4.2.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> weights = jnp.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
        >>> model, x, key = lambda x: weights @ x, jnp.ones(3), jax.random.key(0)
        >>> float(xattr.evaluation.random_logit(xattr.gradient, model, x, 0, key))
        -1.0
    """
    compilation.check_args(args)
    trees.check_key(key)
    x = trees.floating(x, "x")
    found = jax.eval_shape(model, x, *args)
    shape: tuple[int, ...] = getattr(found, "shape", ())
    if len(shape) != 1 or shape[0] < 2:
        what = f"of shape {shape}" if hasattr(found, "shape") else trees.type_of(found)
        raise ValueError(
            f"`model` must return one vector of at least two classes, not {what}: "
            "pass the scores of all classes"
        )
    label = jnp.asarray(label, jnp.int32)
    further = 1 + jax.random.randint(key, (), 0, shape[0] - 1, jnp.int32)
    other = (label + further) % shape[0]
    f = targets.logit(model)
    maps = [method(f, x, args=(each, *args)) for each in (label, other)]
    return _alike(similarity, *maps)


def smooth_mprt(
    method: Method,
    f: Function,
    x: ArrayTree,
    key: PRNGKey,
    *,
    stages: Sequence[Args],
    num_samples: int = 50,
    noise_scale: float = 0.1,
    similarity: Similarity | None = None,
    args: Args = (),
) -> jax.Array:
    """Return how alike smoothed maps of the trained network and of randomized ones are.

    Sₖ = similarity(E_n Φ(f, x + n), E_n Φ(fₖ, x + n)) for each randomized network fₖ, with the same
    Gaussian noise n for all: the test of Adebayo et al. (model parameter randomization, MPRT) on
    averages. It compares maps without the noise that makes any two of them differ.

    From −1 to 1 for a correlation; smaller is better. Randomizing layers from the output down keeps
    the scale and the place of what is active below, so that methods are not to be ranked by small
    differences (Binder et al. 2023).

    Args:
        method: the attribution method, called as `method(f, x, args=args)`.
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        key: a random key, `jax.random.key(seed)`.
        stages: the `args` of each randomized network, such as `[(label, random), ...]`. The stages
            of `xattr.sanity.cascading` have a leading axis to index.
        num_samples: noisy copies.
        noise_scale: the deviation of the noise, as a share of max x − min x.
        similarity: of two maps. None is `xattr.metrics.spearman` over all elements.
        args: further arguments of f, with the trained parameters. A new value does not recompile.

    Returns:
        An array of one similarity for each stage.

    Raises:
        ValueError: if there is no stage, num_samples < 1, or noise_scale < 0.
        TypeError: if `key` is not a key, or `args` or a stage is not a tuple.

    Source:
        Hedström et al. 2023, "Sanity checks revisited: an exploration to repair the model
        parameter randomisation test", §3.1.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x, w: jnp.sum(w * x)
        >>> x, key = jnp.array([1.0, 2.0, 3.0]), jax.random.key(0)
        >>> stages = [(2 * x,), (-x,)]
        >>> options = {"stages": stages, "args": (x,)}
        >>> xattr.evaluation.smooth_mprt(xattr.gradient, f, x, key, **options).tolist()
        [1.0, -1.0]
    """
    if not stages:
        raise ValueError("`stages` must hold the args of at least one randomized network")

    def smoothed(args: Args) -> ArrayTree:
        return noise.smooth_grad(
            f,
            x,
            key,
            method=method,
            num_samples=num_samples,
            noise_scale=noise_scale,
            args=args,
        )

    trained = smoothed(args)
    return jnp.stack([_alike(similarity, trained, smoothed(each)) for each in stages])


def efficient_mprt(
    method: Method,
    f: Function,
    x: ArrayTree,
    *,
    random_args: Args,
    bins: int = 100,
    args: Args = (),
) -> jax.Array:
    """Return by which share a map gets more complex when all parameters are random.

    R = (H(Φ(f_random, x)) − H(Φ(f, x))) / H(Φ(f, x)), with H the entropy of the map's values in a
    histogram of `bins` equal bins over their range.

    From −1 on; larger is better: the map of a trained network should be simpler than that of a
    random one. It compares no two maps, and so needs no similarity; a map of pure noise for both
    has 0.

    Args:
        method: the attribution method, called as `method(f, x, args=args)`.
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        random_args: further arguments of f with random parameters, such as those of
            `xattr.sanity.randomize`.
        bins: bins of the histogram.
        args: the same with the trained parameters. A new value does not recompile.

    Returns:
        A scalar without a unit; NaN or infinite where the trained network's map is constant, and
        NaN where a map is not finite.

    Raises:
        ValueError: if bins < 1.
        TypeError: if a leaf of x is not floating, or `args` is not a tuple.

    Source:
        Hedström et al. 2023, "Sanity checks revisited: an exploration to repair the model
        parameter randomisation test", §3.2.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f, x = lambda x, w: jnp.sum(w * x), jnp.ones(4)
        >>> trained, random = jnp.array([0.0, 0.0, 1.0, 1.0]), jnp.array([0.0, 1.0, 2.0, 3.0])
        >>> found = xattr.evaluation.efficient_mprt(
        ...     xattr.gradient, f, x, args=(trained,), random_args=(random,)
        ... )
        >>> round(float(found), 4)  # (ln 4 − ln 2) / ln 2
        1.0
    """
    trees.check_count(bins, "bins")
    trained, random = (_entropy(method(f, x, args=each), bins) for each in (args, random_args))
    return (random - trained) / trained


def _entropy(maps: ArrayTree, bins: int) -> jax.Array:
    """Return the entropy of the values in a histogram, in nats."""
    values = _vector(maps)
    low, high = values.min(), values.max()
    place = jnp.floor((values - low) / jnp.where(high > low, high - low, 1) * bins)
    inside = jnp.clip(place, 0, bins - 1).astype(jnp.int32)  # the last bin holds the largest value
    share = jnp.zeros(bins, values.dtype).at[inside].add(1) / values.size
    entropy = -jnp.sum(share * jnp.log(jnp.where(share > 0, share, 1)))
    return jnp.where(jnp.isfinite(values).all(), entropy, jnp.nan)


def _alike(similarity: Similarity | None, a: ArrayTree, b: ArrayTree) -> jax.Array:
    if similarity is None:
        return metrics.spearman(_vector(a), _vector(b))
    return jnp.asarray(similarity(a, b))


def _vector(maps: ArrayTree) -> jax.Array:
    leaves = jax.tree.leaves(trees.widen(maps))
    dtype = trees.widest(leaves)
    return jnp.concatenate([leaf.ravel().astype(dtype) for leaf in leaves])
