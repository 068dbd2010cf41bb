"""Functions on which the papers try attribution methods, with known answers."""

import jax
import jax.numpy as jnp
from jax.nn import relu


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
