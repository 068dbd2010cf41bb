"""Small functions on which attribution methods are tried: of papers, and networks by seed.

A specimen is known by its name. It is one function, or a pair of them, of an input of fixed shape
and of parameters drawn from a seed: another seed or input runs the same compiled program.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import relu

from xattr.types import Array, Function

Params = dict[str, Array]
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
}


class Specimen(NamedTuple):
    """One function or two, the shape of their input, and what draws their parameters."""

    functions: tuple[Function, ...]
    shape: tuple[int, ...]
    draw: Callable[[np.random.Generator], tuple[Any, ...]] = lambda _: ()
    options: Mapping[str, Any] = {}
    """What an axiom is to be told of the structure: a feature, features i and j, layers."""
    witness: tuple[float, ...] = ()
    """The input for which a paper gives answers."""

    @property
    def has_parameters(self) -> bool:
        """Tell whether a seed draws anything."""
        return bool(self.draw(np.random.default_rng(0)))


# Of papers, with known answers ----------------------------------------------------------------


def saturated(x: jax.Array) -> jax.Array:
    """Return 1 − ReLU(1 − x): the sensitivity of gradients (Sundararajan et al. 2017, §2.1)."""
    return 1 - relu(1 - x[0])


def gated(x: jax.Array) -> jax.Array:
    """Return ReLU(x₁ − 1 − ReLU(x₂)) (Sundararajan et al. 2017, appendix B)."""
    return relu(x[0] - 1 - relu(x[1]))


def figure_7f(x: jax.Array) -> jax.Array:
    """Return ReLU(ReLU(x₁) − 1 − ReLU(x₂)) (Sundararajan et al. 2017, figure 7)."""
    return relu(relu(x[0]) - 1 - relu(x[1]))


def figure_7g(x: jax.Array) -> jax.Array:
    """Return ReLU(ReLU(x₁ − 1) − ReLU(x₂)), which is the same (figure 7)."""
    return relu(relu(x[0] - 1) - relu(x[1]))


def figure_14a(x: jax.Array) -> jax.Array:
    """Return one of two equal networks (Gradients of Counterfactuals, figure 14)."""
    a, b = relu(x[0]), relu(x[1])
    return relu(relu(a + b / 2 - 0.5) + relu(a / 4 + b / 4) - relu(3 * a / 4 + b / 4))


def figure_14b(x: jax.Array) -> jax.Array:
    """Return the other of the two: on x ≥ 0 both are ReLU((x₁ + x₂ − 1) / 2)."""
    a, b = relu(x[0]), relu(x[1])
    return relu(relu(a + b - 0.5) - relu(a / 2 + b / 2))


def product(x: jax.Array) -> jax.Array:
    """Return x₁ x₂."""
    return x[0] * x[1]


def clipped_product(x: jax.Array) -> jax.Array:
    """Return theorem 1's witness against paths off the diagonal, made continuous."""
    a, b = 0.25, 0.75
    return (jnp.clip(x[0], a, b) - a) * (jnp.clip(x[1], a, b) - a)


def squares(x: jax.Array) -> jax.Array:
    """Return Σ xᵢ²."""
    return jnp.sum(x**2)


def first_square(x: jax.Array) -> jax.Array:
    """Return x₁², whatever x₂."""
    return x[0] ** 2


def nothing(x: jax.Array) -> jax.Array:
    """Return x₃, and 0 written as the difference of figure 7's networks."""
    return figure_7f(x) - figure_7g(x) + x[2]


def rising(x: jax.Array) -> jax.Array:
    """Return ReLU(x₁ + x₂ − 1), which does not fall."""
    return relu(x[0] + x[1] - 1)


def rising_difference(x: jax.Array) -> jax.Array:
    """Return ReLU(x₁ − x₂) + ReLU(x₂ + π/9) − ReLU(−x₂ − π/9), which does not fall."""
    shifted = x[1] + 0.349065850398866
    return relu(x[0] - x[1]) + relu(shifted) - relu(-shifted)


def square_of_sum(x: jax.Array) -> jax.Array:
    """Return (Σ xᵢ)²."""
    return jnp.sum(x) ** 2


def bent_sum(x: jax.Array) -> jax.Array:
    """Return ReLU(Σ xᵢ − 1)."""
    return relu(jnp.sum(x) - 1)


# Networks ---------------------------------------------------------------------------------------

WIDTHS = {"dense": (4, 6, 5), "residual": (4, 4, 4), "attention": (2, 4, 3), "conv": (9, 2, 32)}
SHAPES = {"dense": (4,), "residual": (4,), "attention": (3, 2), "conv": (4, 4, 1)}


def _draw_network(kind: str, random: np.random.Generator) -> tuple[Any, ...]:
    inputs, hidden, last = WIDTHS[kind]

    def array(*shape: int) -> np.ndarray:
        values: np.ndarray = random.normal(size=shape) / np.sqrt(shape[0])
        return values

    params = {"w1": array(inputs, hidden), "b1": array(hidden) / 2}
    if kind == "attention":
        params |= {name: array(inputs, hidden) for name in ("query", "key")}
    if kind != "conv":
        params |= {"w2": array(hidden, last), "b2": array(last) / 2}
    return ({**params, "w3": 2 * array(last)},)


def _dense(activation: str, x: jax.Array, p: Params) -> jax.Array:
    act = ACTIVATIONS[activation]
    with jax.named_scope("hidden"):
        h = act(x @ p["w1"] + p["b1"])
    return act(h @ p["w2"] + p["b2"]) @ p["w3"]


def _residual(activation: str, x: jax.Array, p: Params) -> jax.Array:
    act = ACTIVATIONS[activation]
    with jax.named_scope("hidden"):
        h = act(x @ p["w1"] + p["b1"])
    return (h + act(h @ p["w2"] + p["b2"])) @ p["w3"]


def _attention(activation: str, x: jax.Array, p: Params) -> jax.Array:
    act = ACTIVATIONS[activation]
    query, key = x @ p["query"], x @ p["key"]
    with jax.named_scope("hidden"):
        h = jax.nn.softmax(query @ key.T / 2) @ (x @ p["w1"] + p["b1"][None])
    return act(jnp.mean(h, axis=0) @ p["w2"] + p["b2"]) @ p["w3"]


def _convolved(x: jax.Array, p: Params) -> jax.Array:
    kernel = jnp.asarray(p["w1"]).reshape(3, 3, 1, 2)
    axes = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", dimension_numbers=axes)[0]


def _conv(activation: str, x: jax.Array, p: Params) -> jax.Array:
    act = ACTIVATIONS[activation]
    with jax.named_scope("hidden"):
        h = act(_convolved(x, p) + p["b1"][None, None])
    return h.ravel() @ p["w3"]


NETWORKS = {"dense": _dense, "conv": _conv, "residual": _residual, "attention": _attention}


def _network(kind: str, activation: str) -> Specimen:
    function = functools.partial(NETWORKS[kind], activation)
    draw = functools.partial(_draw_network, kind)
    return Specimen((function,), SHAPES[kind], draw, {"layers": ("hidden",)})


def _linear(x: jax.Array, p: Params) -> jax.Array:
    return x @ p["w"] + p["b"]


def _linear_shifted(x: jax.Array, m: jax.Array, p: Params) -> jax.Array:
    return x @ p["w"] + (p["b"] - m @ p["w"])


def _draw_linear(random: np.random.Generator) -> tuple[Any, ...]:
    return ({"w": random.normal(size=2), "b": random.normal()},)


# Networks, changed ------------------------------------------------------------------------------


def _without_feature(activation: str, x: jax.Array, p: Params) -> jax.Array:
    """Return a network that does not see feature 1: its weights are 0."""
    seen = np.array([1.0, 0.0, 1.0, 1.0], x.dtype)[:, None]
    return _dense(activation, x, {**p, "w1": p["w1"] * seen})


def _masked(activation: str, x: jax.Array, p: Params) -> jax.Array:
    """Return a network that does not see feature 1: it is multiplied by 0."""
    return _dense(activation, x * np.array([1.0, 0.0, 1.0, 1.0], x.dtype), p)


def _exchanged(activation: str, x: jax.Array, p: Params) -> jax.Array:
    """Return a network's mean over two inputs that differ in the places of features 0 and 1."""
    other = x[np.array([1, 0, 2, 3])]
    return (_dense(activation, x, p) + _dense(activation, other, p)) / 2


def _tied(activation: str, x: jax.Array, p: Params) -> jax.Array:
    """Return a network with the same weights for features 0 and 1."""
    return _dense(activation, x, {**p, "w1": p["w1"][np.array([0, 0, 2, 3])]})


def _permuted(activation: str, x: jax.Array, p: Params) -> jax.Array:
    order = np.array([3, 1, 5, 0, 4, 2])
    moved = {"w1": p["w1"][:, order], "b1": p["b1"][order], "w2": p["w2"][order]}
    return _dense(activation, x, {**p, **moved})


def _split(activation: str, x: jax.Array, p: Params) -> jax.Array:
    """Return a network with every hidden unit twice: a third and two thirds of it."""
    twice = {name: jnp.concatenate([p[name], p[name]], axis=-1) for name in ("w1", "b1")}
    return _dense(
        activation, x, {**p, **twice, "w2": jnp.concatenate([p["w2"] / 3, 2 * p["w2"] / 3])}
    )


def _with_identity(activation: str, x: jax.Array, p: Params) -> jax.Array:
    """Return a network after a linear layer that changes nothing."""
    return _dense(activation, x @ np.eye(4, dtype=x.dtype), p)


def _rewritten(_: str, x: jax.Array, p: Params) -> jax.Array:
    """Return a ReLU network whose ReLUs are written in two other ways."""
    h = x @ p["w1"] + p["b1"]
    h = jnp.where(h > 0, h, 0) @ p["w2"] + p["b2"]
    return (h * (h > 0).astype(h.dtype)) @ p["w3"]


def _dense_shifted(activation: str, x: jax.Array, m: jax.Array, p: Params) -> jax.Array:
    return _dense(activation, x, {**p, "b1": p["b1"] - m @ p["w1"]})


def _conv_shifted(activation: str, x: jax.Array, m: jax.Array, p: Params) -> jax.Array:
    bias = p["b1"][None, None] - _convolved(m, p)
    with jax.named_scope("hidden"):
        h = ACTIVATIONS[activation](_convolved(x, p) + bias)
    return h.ravel() @ p["w3"]


def _unbiased(activation: str, x: jax.Array, p: Params) -> jax.Array:
    with jax.named_scope("hidden"):
        h = ACTIVATIONS[activation](x @ p["w1"])
    return ACTIVATIONS[activation](h @ p["w2"]) @ p["w3"]


def _monotone(activation: str, x: jax.Array, p: Params) -> jax.Array:
    return _dense(activation, x, {**p, **{name: jnp.abs(p[name]) for name in ("w1", "w2", "w3")}})


def _of_sum(activation: str, x: jax.Array, p: Params) -> jax.Array:
    return _dense(activation, x, {**p, "w1": jnp.broadcast_to(p["w1"][:1], p["w1"].shape)})


def _second(function: Function, x: jax.Array, _: Params, p: Params) -> jax.Array:
    return jnp.asarray(function(x, p))


def _first(function: Function, x: jax.Array, p: Params, _: Params) -> jax.Array:
    return jnp.asarray(function(x, p))


def _changed(function: Callable[..., Any], activation: str, **options: Any) -> Specimen:
    draw = functools.partial(_draw_network, "dense")
    return Specimen((functools.partial(function, activation),), (4,), draw, options)


def _pair(function: Callable[..., Any], activation: str, kind: str = "dense") -> Specimen:
    both = (NETWORKS[kind], function)
    draw = functools.partial(_draw_network, kind)
    return Specimen(tuple(functools.partial(f, activation) for f in both), SHAPES[kind], draw)


def _two(one: str, other: str) -> Specimen:
    def draw(random: np.random.Generator) -> tuple[Any, ...]:
        return (*_draw_network("dense", random), *_draw_network("dense", random))

    first = functools.partial(_first, functools.partial(_dense, one))
    second = functools.partial(_second, functools.partial(_dense, other))
    return Specimen((first, second), (4,), draw)


NETWORK_SPECIMENS = {
    f"{kind}-{activation}": _network(kind, activation)
    for kind in NETWORKS
    for activation in ACTIVATIONS
}
DUMMIES = {
    "first-square": Specimen((first_square,), (2,), witness=(1.0, 2.0), options={"feature": 1}),
    "nothing": Specimen((nothing,), (3,), witness=(3.0, 1.0, 1.0), options={"feature": 0}),
    **{f"unseen-{a}": _changed(_without_feature, a, feature=1) for a in ("relu", "tanh")},
    **{f"masked-{a}": _changed(_masked, a, feature=1) for a in ("relu", "gelu")},
}
SYMMETRIC = {
    "product": Specimen((product,), (2,), witness=(1.0, 1.0), options={"i": 0, "j": 1}),
    "clipped-product": Specimen(
        (clipped_product,), (2,), witness=(1.0, 1.0), options={"i": 0, "j": 1}
    ),
    "figure-14a": Specimen((figure_14a,), (2,), witness=(1.0, 1.0), options={"i": 0, "j": 1}),
    **{f"tied-{a}": _changed(_tied, a, i=0, j=1) for a in ("relu", "tanh")},
    **{f"exchanged-{a}": _changed(_exchanged, a, i=0, j=1) for a in ("relu", "softplus")},
}
EQUIVALENT = {
    "figure-7": Specimen((figure_7f, figure_7g), (2,), witness=(3.0, 1.0)),
    "figure-14": Specimen((figure_14a, figure_14b), (2,), witness=(1.0, 1.0)),
    **{f"permuted-{a}": _pair(_permuted, a) for a in ("relu", "gelu")},
    **{f"split-{a}": _pair(_split, a) for a in ("relu", "tanh")},
    "identity-relu": _pair(_with_identity, "relu"),
    "rewritten-relu": _pair(_rewritten, "relu"),
}
SHIFTED = {
    "shifted-linear": Specimen((_linear, _linear_shifted), (2,), _draw_linear),
    **{f"shifted-{a}": _pair(_dense_shifted, a) for a in ("relu", "tanh")},
    "shifted-conv-relu": _pair(_conv_shifted, "relu", "conv"),
}
RISING = {
    "rising": Specimen((rising,), (2,), witness=(1.0, 2.0)),
    "rising-difference": Specimen((rising_difference,), (2,)),
    **{f"rising-{a}": _changed(_monotone, a) for a in ("relu", "softplus", "tanh")},
}
OF_SUMS = {
    "square-of-sum": Specimen((square_of_sum,), (2,), witness=(1.0, 3.0)),
    "bent-sum": Specimen((bent_sum,), (2,), witness=(1.0, 3.0)),
    **{f"of-sum-{a}": _changed(_of_sum, a) for a in ("relu", "tanh")},
}
TOYS = {
    "saturated": Specimen((saturated,), (1,), witness=(2.0,)),
    "gated": Specimen((gated,), (2,), witness=(3.0, 1.0)),
    "squares": Specimen((squares,), (2,), witness=(1.0, 2.0)),
    "linear": Specimen((_linear,), (2,), _draw_linear),
}
PAIRS = {
    "product-squares": Specimen((product, squares), (2,), witness=(1.0, 2.0)),
    "gated-rising": Specimen((gated, rising), (2,), witness=(3.0, 1.0)),
    "relu-tanh": _two("relu", "tanh"),
    "relu-relu": _two("relu", "relu"),
}
UNBIASED = {f"unbiased-{a}": _changed(_unbiased, a, layers=("hidden",)) for a in ("relu", "tanh")}
FUNCTIONS = {**TOYS, **SYMMETRIC, **NETWORK_SPECIMENS}
"""Functions of any kind."""
