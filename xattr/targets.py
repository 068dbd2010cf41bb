"""A model with class scores as the function explained; the label is an argument of it.

Each function returns `f(x, label, *args)` for `model(x, *args) -> scores` of shape (classes,), for
one example. Explain f with `args=(label, *args)`: a new label of the same dtype runs the same
compiled program, even if f is made anew. For a label that is not a class f is NaN; it is never the
score of another class.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from xattr.types import Args, ArrayTree, Function

__all__ = ["log_odds", "log_probability", "logit", "probability"]

Model: TypeAlias = Callable[..., Any]
"""`model(x, *args) -> scores` of shape (classes,), for one example."""


def logit(model: Model) -> Function:
    """Return the function that computes the score of a class before the softmax.

    f(x, label) = model(x)[label].

    Args:
        model: `model(x, *args) -> scores` of shape (classes,), for one example.

    Returns:
        The function `f(x, label, *args) -> scalar`. `label` is an integer scalar; f is NaN for a
        label that is not a class.

    Raises:
        ValueError: when f is called, if the scores are not one-dimensional.
        TypeError: when f is called, if the label is not an integer, or the model does not return an
            array.

    Source:
        Simonyan, Vedaldi & Zisserman 2013, §3; Adebayo et al. 2018, §4.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f = xattr.targets.logit(lambda x: 2 * x)
        >>> xattr.gradient(f, jnp.array([1.0, 2.0, 3.0]), args=(1,))
        Array([0., 2., 0.], dtype=float32)
    """
    return functools.partial(_score, model, _identity)


def probability(model: Model) -> Function:
    """Return the function that computes the softmax probability of a class.

    f(x, label) = softmax(model(x))[label].

    The integrated-gradients papers explain this score. It saturates: where it is near 1, its
    gradient is near 0.

    Args:
        model: `model(x, *args) -> scores` of shape (classes,), for one example.

    Returns:
        The function `f(x, label, *args) -> scalar`. `label` is an integer scalar; f is NaN for a
        label that is not a class.

    Raises:
        ValueError: when f is called, if the scores are not one-dimensional.
        TypeError: when f is called, if the label is not an integer, or the model does not return an
            array.

    Source:
        Sundararajan et al. 2016, "Gradients of Counterfactuals", §2.1.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> xattr.targets.probability(lambda x: x)(jnp.zeros(4), 1)
        Array(0.25, dtype=float32)
    """
    return functools.partial(_score, model, jax.nn.softmax)


def log_probability(model: Model) -> Function:
    """Return the function that computes the log-probability of a class.

    f(x, label) = log softmax(model(x))[label].

    It does not saturate as the probability does.

    Args:
        model: `model(x, *args) -> scores` of shape (classes,), for one example.

    Returns:
        The function `f(x, label, *args) -> scalar`. `label` is an integer scalar; f is NaN for a
        label that is not a class.

    Raises:
        ValueError: when f is called, if the scores are not one-dimensional.
        TypeError: when f is called, if the label is not an integer, or the model does not return an
            array.

    Source:
        Bishop 2006, "Pattern Recognition and Machine Learning", §4.3.4.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> xattr.targets.log_probability(lambda x: x)(jnp.zeros(4), 1).round(4)
        Array(-1.3863, dtype=float32)
    """
    return functools.partial(_score, model, jax.nn.log_softmax)


def log_odds(model: Model) -> Function:
    """Return the function that computes the log-odds of a class against all others.

    f(x, label) = log p − log(1 − p), p = softmax(model(x))[label].

    It is computed as the score of the class minus the log-sum-exp of the other scores, which is
    exact near p = 1.

    Args:
        model: `model(x, *args) -> scores` of shape (classes,), for one example, with at least 2
            classes.

    Returns:
        The function `f(x, label, *args) -> scalar`. `label` is an integer scalar; f is NaN for a
        label that is not a class.

    Raises:
        ValueError: when f is called, if the scores are not one-dimensional, or are fewer than 2.
        TypeError: when f is called, if the label is not an integer, or the model does not return an
            array.

    Source:
        Bishop 2006, "Pattern Recognition and Machine Learning", §4.2.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> xattr.targets.log_odds(lambda x: x)(jnp.array([0.0, 3.0]), 1)
        Array(3., dtype=float32)
    """
    return functools.partial(_log_odds, model)


def _identity(scores: jax.Array) -> jax.Array:
    return scores


def _score(
    model: Model, transform: Callable[..., Any], x: ArrayTree, label: Any, *args: Any
) -> Any:
    scores = scores_of(model, x, args)
    index = index_of(label)
    return transform(scores)[index] * _one_if_class(index, scores)


def _log_odds(model: Model, x: ArrayTree, label: Any, *args: Any) -> jax.Array:
    scores = scores_of(model, x, args)
    if scores.size < 2:
        raise ValueError("`model` returns one score, which has no other class to be compared with")
    index = index_of(label)
    chosen = jnp.arange(scores.size, dtype=jnp.int32) == index
    others = jax.nn.logsumexp(jnp.where(chosen, -jnp.inf, scores))
    return (scores[index] - others) * _one_if_class(index, scores)


def scores_of(model: Model, x: ArrayTree, args: Args) -> jax.Array:
    """Return the scores of the model for one example; raise if they are not one-dimensional."""
    returned = model(x, *args)
    try:
        scores = jnp.asarray(returned)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`model` must return class scores of shape (classes,), but returned a "
            f"{type(returned).__name__}: return the scores alone, "
            "lambda x, *args: model(x, *args)[0]; a flax module with `mutable` trains, "
            "build it with use_running_average=True"
        ) from error
    if scores.ndim != 1:
        raise ValueError(
            f"`model` must return class scores of shape (classes,) for one example, but returned "
            f"shape {scores.shape}: for a model of batches pass "
            "lambda x, *args: model(x[None], *args)[0]"
        )
    return scores


def _one_if_class(index: jax.Array, scores: jax.Array) -> jax.Array:
    """Return 1, or NaN for a label that is not a class.

    As a factor it makes the gradient NaN too. Indexing alone would clamp the label to a class.
    """
    known = (index >= 0) & (index < scores.size)
    return jnp.where(known, 1, jnp.nan).astype(scores.dtype)


def index_of(label: Any) -> jax.Array:
    """Return the label as int32; −1, which is not a class, for a label that int32 cannot hold."""
    if not jnp.issubdtype(jnp.result_type(label), jnp.integer) or jnp.shape(label):
        raise TypeError(f"`label` must be an integer scalar, the index of a class, not {label!r}")
    if not isinstance(label, jax.Array):  # JAX would drop the high bits
        return jnp.asarray(label if 0 <= label < 2**31 else -1, jnp.int32)
    index = label.astype(jnp.int32)
    return jnp.where(label >> 31 == 0, index, -1) if label.dtype.itemsize == 8 else index
