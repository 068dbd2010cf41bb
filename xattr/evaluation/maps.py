"""Measures of a map by itself, or beside a mask or the input: of one array for one example."""

from typing import Any

import jax
import jax.numpy as jnp

from xattr import metrics
from xattr._core import trees
from xattr.types import Array


def pointing_game(attributions: Array, mask: Array) -> jax.Array:
    """Return 1 if the largest score lies in the mask, else 0.

    hit = mask[argmaxᵢ Aᵢ].

    Larger is better, in the mean over examples. Among equal scores the first counts. It looks at
    one element of the map alone.

    Args:
        attributions: one score for each element, floating.
        mask: where the object is: boolean, of the same shape.

    Returns:
        A scalar, 0 or 1; NaN if a score is NaN.

    Raises:
        ValueError: if the shapes differ.
        TypeError: if the map is not one floating array, or the mask is not boolean.

    Source:
        Zhang et al. 2018, "Top-down neural attention by excitation backprop", §4.1, without their
        tolerance of 15 pixels; for it, widen the mask.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> a = jnp.array([[0.1, 0.9], [0.0, 0.2]])
        >>> float(xattr.evaluation.pointing_game(a, a > 0.5))
        1.0
    """
    scores, inside = _with_mask(attributions, mask)
    hit = inside[jnp.argmax(scores)].astype(scores.dtype)
    return jnp.where(jnp.isnan(scores).any(), jnp.nan, hit)


def relevance_mass(attributions: Array, mask: Array) -> jax.Array:
    """Return the share of the absolute scores that lies in the mask.

    Σ_{i in mask} |Aᵢ| / Σᵢ |Aᵢ|.

    From 0 to 1; larger is better. A map without structure has the share of the mask in the array.
    A network may be right to look beside the object.

    Args:
        attributions: one score for each element, floating.
        mask: where the object is: boolean, of the same shape.

    Returns:
        A scalar in [0, 1]; NaN for a map of zeros.

    Raises:
        ValueError: if the shapes differ.
        TypeError: if the map is not one floating array, or the mask is not boolean.

    Source:
        Arras et al. 2022, "CLEVR-XAI", §3.3; with boxes, Sundararajan et al. 2016, §2.5.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> a = jnp.array([[1.0, -3.0], [0.0, 0.0]])
        >>> float(xattr.evaluation.relevance_mass(a, a < 0))
        0.75
    """
    scores, inside = _with_mask(attributions, mask)
    size = jnp.abs(scores)
    return jnp.sum(jnp.where(inside, size, 0)) / jnp.sum(size)


def relevance_rank(attributions: Array, mask: Array) -> jax.Array:
    """Return the share of the K largest scores that lie in the mask, K being its size.

    RRA = |{the K elements of the largest A} ∩ mask| / K.

    From 0 to 1; larger is better. Among equal scores the first in the array count. A map without
    structure has the share of the mask in the array.

    Args:
        attributions: one score for each element, floating.
        mask: where the object is: boolean, of the same shape.

    Returns:
        A scalar in [0, 1]; NaN for an empty mask or a score that is NaN.

    Raises:
        ValueError: if the shapes differ.
        TypeError: if the map is not one floating array, or the mask is not boolean.

    Source:
        Arras et al. 2022, "CLEVR-XAI", §3.3.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> a = jnp.array([4.0, 3.0, 2.0, 1.0])
        >>> float(xattr.evaluation.relevance_rank(a, jnp.array([True, False, True, False])))
        0.5
    """
    scores, inside = _with_mask(attributions, mask)
    number = inside.sum()
    first = jnp.arange(scores.size) < number
    ordered = inside[jnp.argsort(-scores, stable=True)]
    share = jnp.sum(ordered & first, dtype=scores.dtype) / number.astype(scores.dtype)
    return jnp.where(jnp.isnan(scores).any(), jnp.nan, share)


def sparseness(attributions: Array) -> jax.Array:
    """Return the Gini index of the absolute scores.

    G = Σₖ (2k − n − 1) |A|₍ₖ₎ / (n Σ |A|), with the absolute scores in ascending order, k = 1 … n.

    From 0 for equal scores to 1 − 1/n for a single one. Larger is sparser, which people read more
    easily; it does not say that the map is right.

    Args:
        attributions: one score for each element, floating.

    Returns:
        A scalar in [0, 1); NaN for a map of zeros.

    Raises:
        TypeError: if the map is not one floating array.

    Source:
        Chalasani et al. 2020, "Concise explanations of neural networks using adversarial training",
        §3.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> float(xattr.evaluation.sparseness(jnp.array([0.0, 0.0, 0.0, -2.0])))
        0.75
    """
    size = jnp.sort(jnp.abs(_scores(attributions)))
    n = size.size
    # Divided by the largest first: the sum of large scores would leave the range of the dtype.
    size = size / size[-1]
    places = 2 * jnp.arange(1, n + 1, dtype=size.dtype) - n - 1
    return jnp.sum(places * size) / (n * jnp.sum(size))


def complexity(attributions: Array) -> jax.Array:
    """Return the entropy of the absolute scores, as shares of their sum.

    H = −Σᵢ pᵢ ln pᵢ, pᵢ = |Aᵢ| / Σ |A|, with 0 ln 0 = 0.

    From 0 for a single score to ln n for equal ones. Smaller is simpler; it does not say that the
    map is right.

    Args:
        attributions: one score for each element, floating.

    Returns:
        A scalar in nats; NaN for a map of zeros.

    Raises:
        TypeError: if the map is not one floating array.

    Source:
        Bhatt et al. 2020, "Evaluating and aggregating feature-based model explanations", def. 5.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> float(xattr.evaluation.complexity(jnp.array([1.0, -1.0, 0.0])))  # ln 2
        0.6931471824645996
    """
    size = jnp.abs(_scores(attributions))
    size = size / size.max()
    share = size / size.sum()
    return -jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1)), 0))


def input_recovery(attributions: Array, x: Array) -> jax.Array:
    """Return the absolute rank correlation of a map with the input.

    |ρ|, with Spearman's ρ = corr(ranks of A, ranks of x).

    From 0 to 1. A large value says that the map shows x itself: guided backpropagation and
    DeConvNet recover the input, whatever the network has learned. Compare it with the same for
    random weights. A product with the input is correlated with it by construction.

    Args:
        attributions: one score for each element, floating.
        x: the input, of the same shape; for an image in colours, the grey value of each pixel.

    Returns:
        A scalar in [0, 1]; NaN if either is constant.

    Raises:
        ValueError: if the shapes differ.
        TypeError: if either is not one floating array.

    Source:
        Nie et al. 2018, "A theoretical explanation for perplexing behaviors of
        backpropagation-based visualizations".

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> x = jnp.array([0.1, 0.5, 0.9])
        >>> float(xattr.evaluation.input_recovery(-2 * x, x))
        1.0
    """
    return jnp.abs(metrics.spearman(attributions, x))


def _scores(attributions: Any) -> jax.Array:
    """Return one array of scores as a vector, in float32 at least."""
    if not jax.tree_util.all_leaves([attributions]):
        raise TypeError(
            f"`attributions` must be one array, but is {trees.type_of(attributions)}: for a pytree "
            "use jax.tree.map"
        )
    scores: jax.Array = trees.widen(trees.floating(attributions, "attributions"))
    return scores.ravel()


def _with_mask(attributions: Any, mask: Any) -> tuple[jax.Array, jax.Array]:
    scores = _scores(attributions)
    if not isinstance(mask, Array) or mask.dtype != bool:
        kind = getattr(mask, "dtype", trees.type_of(mask))
        raise TypeError(f"`mask` must be boolean, but is {kind}: pass a comparison")
    if mask.shape != attributions.shape:
        raise ValueError(
            f"`mask` has shape {mask.shape}, but `attributions` have shape {attributions.shape}: "
            "pass one flag for every score; the scores of pixels are a sum over their colours"
        )
    return scores, jnp.ravel(mask)
