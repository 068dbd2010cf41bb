"""Not an experiment: networks whose weights are set by hand, and pictures of known truth.

`truth` explains them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SIDE, PATCH = 12, 3
"""Pixels along a side of a picture and of a patch."""
WINDOWS = SIDE - PATCH + 1
STRENGTH, NOISE, DECOY = 3.0, 0.1, 2.0
"""Norm of a planted patch, deviation of a pixel's noise, and value of the decoy's pixels."""
THRESHOLD = 2.0
"""What a window must reach; a window that is off by a pixel reaches 1.4 of the 3."""
DEAD = 0.5
"""XOR is silent while its patches differ by less than this, in units of a patch's strength."""
CORNER, OTHER = (2, 2), (7, 7)
"""Upper left pixels of the two patches of XOR and of signal and distractor."""


class Problem(NamedTuple):
    """A network and pictures."""

    params: tuple[jax.Array, ...]
    images: np.ndarray
    """(n, 12, 12)."""
    truths: dict[str, np.ndarray]
    """Name of a question -> the pixels that answer it, (n, 12, 12)."""
    data: np.ndarray
    """Pictures that patterns are fitted on and that expected gradients start from."""


def template() -> np.ndarray:
    """Return the planted pattern, of norm 1 and sum 0: a cross of corners and centre."""
    pattern = np.where(np.indices((PATCH, PATCH)).sum(0) % 2 == 0, 1.0, -1.25)
    return pattern / np.linalg.norm(pattern)


def network(image: jax.Array, params: Any) -> jax.Array:
    """Return the score of a picture by two ReLU layers; `params` says of which problem."""
    first, bias, second, shift, last = params
    hidden = jax.nn.relu(jnp.ravel(image) @ first + bias)
    return jax.nn.relu(hidden @ second + shift) @ last


def problems(count: int, random: np.random.Generator) -> dict[str, Problem]:
    """Return every problem with its pictures and weights."""
    alone, planted, _ = _pictures(count, random, decoy=False)
    beside, mask, _ = _pictures(count, random, decoy=True)
    unequal, equal = (_two_patches(count, random, sign) for sign in (-1, 1))
    pairs = np.stack([unequal, equal], 1).reshape(-1, SIDE, SIDE)
    both = _both(count)
    mixed = _distracted(count, random)
    first = np.zeros_like(both)
    first[_place(CORNER)] = True
    detector = _detector(saturates=False)
    return {
        "patch": Problem(detector, alone, {"a patch": planted}, alone),
        "decoy": Problem(detector, beside, {"patch and decoy": mask}, beside),
        "saturated": Problem(_detector(saturates=True), beside, {"saturated score": mask}, beside),
        "unequal": Problem(_xor(), unequal, {"XOR, unequal": both}, pairs),
        "equal": Problem(_xor(), equal, {"XOR, equal": both}, pairs),
        "distractor": Problem(
            _cancelling(),
            mixed,
            {"distractor, label": first, "distractor, network": both},
            mixed,
        ),
        # The same pictures with weights drawn at random; its maps have no truth.
        "random network": Problem(_random_weights(random), beside, {}, beside),
    }


def _pictures(
    count: int, random: np.random.Generator, *, decoy: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Plant a patch anywhere, and a decoy where it does not touch; return both masks."""
    images = random.normal(0, NOISE, (count, SIDE, SIDE))
    masks = np.zeros((2, count, SIDE, SIDE), bool)
    for k in range(count):
        here, there = random.integers(0, WINDOWS, 2), random.integers(0, WINDOWS, 2)
        while np.abs(here - there).max() <= PATCH:
            there = random.integers(0, WINDOWS, 2)
        masks[0, k][_place(here)[1:]] = masks[1, k][_place(there)[1:]] = True
        images[k][_place(here)[1:]] += STRENGTH * template()
        images[k][_place(there)[1:]] += DECOY * decoy
    return images.astype(np.float32), masks[0], masks[1]


def _place(corner: Any) -> tuple[Any, slice, slice]:
    """Return the index of a patch in pictures (n, 12, 12)."""
    i, j = map(int, corner)
    return (..., slice(i, i + PATCH), slice(j, j + PATCH))


def _both(count: int) -> np.ndarray:
    masks = np.zeros((count, SIDE, SIDE), bool)
    masks[_place(CORNER)] = masks[_place(OTHER)] = True
    return masks


def _two_patches(count: int, random: np.random.Generator, product: int) -> np.ndarray:
    """Return pictures of two patches of either sign whose signs have this product."""
    images = random.normal(0, NOISE, (count, SIDE, SIDE))
    signs = random.choice([-1, 1], (count, 1, 1))
    images[_place(CORNER)] += STRENGTH * signs * template()
    images[_place(OTHER)] += product * STRENGTH * signs * template()
    return images.astype(np.float32)


def _distracted(count: int, random: np.random.Generator) -> np.ndarray:
    """Return pictures s (t, 0) + ε (t, t) in the two patches: the label is the sign of s."""
    images = random.normal(0, NOISE / 10, (count, SIDE, SIDE))
    signal, distractor = STRENGTH * random.normal(size=(2, count, 1, 1))
    images[_place(CORNER)] += (signal + distractor) * template()
    images[_place(OTHER)] += distractor * template()
    return images.astype(np.float32)


def _window(corner: Any) -> np.ndarray:
    """Return weights (144,) that read a window by the template."""
    weights = np.zeros((SIDE, SIDE))
    weights[_place(corner)[1:]] = template()
    return weights.ravel()


def _params(columns: list[Any], biases: Any, second: Any, shift: Any, last: Any) -> Any:
    """Return parameters of one shape for all problems: 100 units, then 2."""
    width = WINDOWS**2
    first, bias, two = np.zeros((SIDE**2, width)), np.zeros(width), np.zeros((width, 2))
    first[:, : len(columns)] = np.transpose(columns)
    bias[: len(columns)] = biases
    two[: len(columns)] = second
    return tuple(jnp.asarray(each, jnp.float32) for each in (first, bias, two, shift, last))


def _detector(*, saturates: bool) -> Any:
    """Return weights of Σ ReLU(window − 2), or of its minimum with ½."""
    columns = [_window(corner) for corner in np.ndindex(WINDOWS, WINDOWS)]
    ones = np.ones((len(columns), 2)) * [1, saturates]
    return _params(columns, -THRESHOLD, ones, [0, -0.5], [1, -1])


def _xor() -> Any:
    """Return weights of ReLU(u − v − ½) + ReLU(v − u − ½), with u and v from −1 to 1."""
    u, v = (_window(corner) / STRENGTH for corner in (CORNER, OTHER))
    columns = [u, -u, v, -v]  # u = ReLU(u) − ReLU(−u)
    signs = np.array([1, -1, -1, 1])
    return _params(columns, 0, np.stack([signs, -signs], 1), [-DEAD, -DEAD], [1, 1])


def _cancelling() -> Any:
    """Return weights of the signal: the first patch less the second, in which ε cancels."""
    weights = _window(CORNER) - _window(OTHER)
    return _params([weights, -weights], 0, np.eye(2), [0, 0], [1, -1])


def _random_weights(random: np.random.Generator) -> Any:
    shapes = [each.shape for each in _detector(saturates=False)]
    return tuple(jnp.asarray(random.normal(size=s) / s[0] ** 0.5, jnp.float32) for s in shapes)
