"""Toy networks whose attributions are known, from the papers."""

from jax.nn import relu


def saturated(x):
    """1 − ReLU(1 − x), the counterexample to the sensitivity of gradients (ICML 2017, §2.1)."""
    return 1 - relu(1 - x)


def figure_14a(x):
    """One of two functionally equivalent networks (Gradients of Counterfactuals, fig. 14)."""
    first = relu(relu(x[0]) + relu(x[1]) / 2 - 1 / 2)
    second = relu(relu(x[0]) / 4 + relu(x[1]) / 4)
    third = relu(3 * relu(x[0]) / 4 + relu(x[1]) / 4)
    return relu(first + second - third)


def figure_14b(x):
    """The other of the two: the same function, built otherwise."""
    a, b = relu(x[0]), relu(x[1])
    return relu(relu(a + b - 1 / 2) - relu(a / 2 + b / 2))


def figure_7f(x):
    """One of two functionally equivalent networks (ICML 2017, fig. 7)."""
    return relu(relu(x[0]) - 1 - relu(x[1]))


def figure_7g(x):
    """The other of the two."""
    return relu(relu(x[0] - 1) - relu(x[1]))


def gated(x):
    """ReLU(x₁ − 1 − ReLU(x₂)) (Axiomatic attribution, slides)."""
    return relu(x[0] - 1 - relu(x[1]))
