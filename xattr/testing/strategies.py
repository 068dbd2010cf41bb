"""Hypothesis strategies for tests of attribution methods: structure from menus, values by seed.

Inputs have one of a few shapes, and functions are made once: another example costs a call, not a
compilation. `hypothesis` comes with `pip install 'xattr-jax[test]'`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from xattr import quadrature
from xattr._core import deprecated
from xattr.testing import options, registry
from xattr.testing.functions import NETWORK_SPECIMENS, Specimen
from xattr.testing.instances import Problem, problem
from xattr.testing.options import Option
from xattr.types import Path, Quadrature

if TYPE_CHECKING:
    import jax
    from hypothesis.strategies import DrawFn, SearchStrategy

QUADRATURES: dict[str, Callable[[int], Quadrature]] = {
    "gauss_legendre": quadrature.gauss_legendre,
    "midpoint": quadrature.midpoint,
    "trapezoid": quadrature.trapezoid,
    "riemann_left": quadrature.riemann_left,
    "riemann_right": quadrature.riemann_right,
}


def problems(axiom: str) -> SearchStrategy[Problem]:
    """Draw problems that keep what an axiom presupposes.

    P = (f, x, baseline, args, options), with f one of `xattr.testing.AXIOMS[axiom].functions`. The
    simplest function comes first: a counterexample shrinks to it.

    Args:
        axiom: a name of `xattr.testing.AXIOMS`.

    Returns:
        A strategy of `xattr.testing.Problem`. x and the baseline have the shape of the function, at
        most 16 features; some features are at their baseline.

    Raises:
        ValueError: if there is no such axiom.
        ImportError: if hypothesis is not installed.

    Source:
        MacIver et al. 2019, "Hypothesis: a new approach to property-based testing".

    Example:
        >>> import hypothesis, xattr
        >>> p = hypothesis.find(problems("symmetry"), lambda p: p.name == "product")
        >>> p.options
        {'i': 0, 'j': 1}
    """
    record = registry.axiom_of(axiom)
    return _drawn(record.functions, record.options, record.rises)


def networks() -> SearchStrategy[Problem]:
    """Draw networks: dense, convolutional, residual, attention; relu, gelu, softplus, tanh.

    P = (f, x, baseline, args), with f(x, *args) the score of one class.

    Returns:
        A strategy of `xattr.testing.Problem`. x has shape (4,), (4, 4, 1) or (3, 2); the layer
        "hidden" is named.

    Raises:
        ImportError: if hypothesis is not installed.

    Source:
        The networks of `xattr.testing.AXIOMS["completeness"]`, without the functions of papers.

    Example:
        >>> import hypothesis
        >>> hypothesis.find(networks(), lambda p: p.name == "dense-relu").x.shape
        (4,)
    """
    return _drawn(NETWORK_SPECIMENS)


def symmetric_functions() -> SearchStrategy[Problem]:
    """Draw functions that are the same when features i and j change places.

    f(…, xᵢ, …, xⱼ, …) = f(…, xⱼ, …, xᵢ, …), with i and j in `problem.options`.

    Returns:
        A strategy of `xattr.testing.Problem`. x has shape (2,) or (4,).

    Raises:
        ImportError: if hypothesis is not installed.

    Source:
        Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", §4.1.

    Example:
        >>> import hypothesis
        >>> hypothesis.find(symmetric_functions(), lambda p: True).name
        'product'
    """
    return problems("symmetry")


def dummy_functions() -> SearchStrategy[Problem]:
    """Draw functions that do not depend on a feature, plainly or in disguise.

    ∂f/∂xᵢ = 0 everywhere, with i in `problem.options["feature"]`.

    Returns:
        A strategy of `xattr.testing.Problem`. x has shape (2,), (3,) or (4,).

    Raises:
        ImportError: if hypothesis is not installed.

    Source:
        Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", §3.

    Example:
        >>> import hypothesis
        >>> hypothesis.find(dummy_functions(), lambda p: True).options
        {'feature': 1}
    """
    return problems("sensitivity_b")


def equivalent_pairs() -> SearchStrategy[Problem]:
    """Draw pairs of functions that are equal and written in two ways.

    f(x, *args) = g(x, *args): figures 7 and 14, permuted and split neurons, an identity layer, a
    ReLU rewritten.

    Returns:
        A strategy of `xattr.testing.Problem`, with f and g. x has shape (2,) or (4,).

    Raises:
        ImportError: if hypothesis is not installed.

    Source:
        Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", figure 7;
        Sundararajan et al. 2016, "Gradients of Counterfactuals", figure 14.

    Example:
        >>> import hypothesis
        >>> p = hypothesis.find(equivalent_pairs(), lambda p: True)
        >>> float(p.f(p.x, *p.args) - p.g(p.x, *p.args))
        0.0
    """
    return problems("implementation_invariance")


def shifted_pairs() -> SearchStrategy[Problem]:
    """Draw networks and a constant shift of their input that the first bias undoes.

    g(x + m, m, *args) = f(x, *args), with m in `problem.options["shift"]`.

    Returns:
        A strategy of `xattr.testing.Problem`, with f and g. x and m have shape (2,), (4,) or
        (4, 4, 1).

    Raises:
        ImportError: if hypothesis is not installed.

    Source:
        Kindermans, Hooker et al. 2017, "The (Un)reliability of saliency methods", §2.

    Example:
        >>> import hypothesis
        >>> hypothesis.find(shifted_pairs(), lambda p: True).name
        'shifted-linear'
    """
    return problems("input_invariance")


def inputs(shape: Sequence[int]) -> SearchStrategy[tuple[jax.Array, jax.Array]]:
    """Draw an input and a baseline, with ties: features that are at their baseline.

    xᵢ = kᵢ/2 + c/10, c = 1, 2, 3, 4, 1, …: no sum or difference of two lies on a kink of the
    papers' networks.

    Args:
        shape: the shape of both.

    Returns:
        A strategy of pairs (x, baseline) of arrays in the default precision.

    Raises:
        ImportError: if hypothesis is not installed.

    Source:
        Sundararajan et al. 2016, "Gradients of Counterfactuals", §2.3 (features at their baseline
        get nothing).

    Example:
        >>> import hypothesis
        >>> x, baseline = hypothesis.find(inputs((3,)), lambda drawn: True)
        >>> x.shape, baseline.shape
        ((3,), (3,))
    """
    pair = options.strategies().composite(_inputs)(tuple(shape))
    return pair.map(lambda drawn: (options.floats(drawn[0]), options.floats(drawn[1])))


@deprecated.by_keyword
def paths(*, baseline: jax.Array, x: jax.Array) -> SearchStrategy[Path]:
    """Draw paths between two arrays: straight, monotone, polylines, coordinate by coordinate.

    γ(0) = baseline, γ(1) = x.

    Args:
        baseline: the array at which the paths begin.
        x: the array at which they end, of the same shape.

    Returns:
        A strategy of paths, functions `alpha -> array like x`.

    Raises:
        ImportError: if hypothesis is not installed.

    Source:
        Sundararajan et al. 2016, "Gradients of Counterfactuals", §2.4 and eq. 6.

    Example:
        >>> import hypothesis, jax.numpy as jnp
        >>> path = hypothesis.find(paths(baseline=jnp.zeros(2), x=jnp.ones(2)), lambda path: True)
        >>> path(0.5)
        Array([0.5, 0.5], dtype=float32)
    """
    st = options.strategies()
    return st.builds(
        lambda kind, seed: options.PATHS[kind](baseline, x, np.random.default_rng(seed)),
        st.sampled_from(list(options.PATHS)),
        options.below(options.SEEDS),
    )


def quadratures(n: int) -> SearchStrategy[Quadrature]:
    """Draw quadratures of a fixed number of nodes, so that nothing is compiled twice.

    ∫₀¹ g(α) dα ≈ Σₖ wₖ g(αₖ): Gauss–Legendre, midpoint, trapezoidal and Riemann, whole and on
    two pieces.

    Args:
        n: the number of nodes, even and at least 4.

    Returns:
        A strategy of `xattr.Quadrature`, with nodes and weights of shape (n,).

    Raises:
        ValueError: if n is odd or below 4.
        ImportError: if hypothesis is not installed.

    Source:
        `xattr.quadrature`.

    Example:
        >>> import hypothesis
        >>> drawn = hypothesis.find(quadratures(4), lambda drawn: True)
        >>> len(drawn.nodes), round(float(sum(drawn.weights)), 6)
        (4, 1.0)
    """
    if n < 4 or n % 2:
        raise ValueError(f"`n` must be an even number of at least 4, not {n!r}")
    st = options.strategies()
    whole = [make(n) for make in QUADRATURES.values()]
    halves = [quadrature.composite(make(n // 2), 2) for make in QUADRATURES.values()]
    return st.sampled_from([*whole, *halves])


def _drawn(
    functions: Mapping[str, Specimen],
    drawn: Mapping[str, Option] = MappingProxyType({}),
    rises: bool = False,
) -> SearchStrategy[Problem]:
    """Draw problems of these functions, with these options."""
    return options.strategies().composite(_problem)(functions, drawn, rises)


def _inputs(draw: DrawFn, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    st, size = options.strategies(), math.prod(shape)
    places = np.arange(size) % 4 + 1
    x = options.steps(draw, size) / 2 + places / 10
    # Off the half steps: from there nodes of equal distance would lie on kinks of the papers.
    baseline = options.steps(draw, size) / 2 + 0.0371 * places
    baseline = baseline if draw(st.booleans()) else np.zeros(size)
    tied = options.steps(draw, size) > options.STEPS / 2
    return x.reshape(shape), np.where(tied, x, baseline).reshape(shape)


def _problem(
    draw: DrawFn, functions: Mapping[str, Specimen], drawn: Mapping[str, Option], rises: bool
) -> Problem:
    st = options.strategies()
    papers = [name for name, each in functions.items() if not each.has_parameters]
    others = [name for name, each in functions.items() if each.has_parameters]
    name = draw(st.one_of([st.sampled_from(part) for part in (papers, others) if part]))
    specimen = functions[name]
    is_of_paper = bool(specimen.witness) and draw(st.booleans())
    x, baseline = _inputs(draw, specimen.shape)
    if is_of_paper:
        x = np.array(specimen.witness)
    if rises:
        baseline = np.minimum(x, baseline)  # x stays off the kinks of the papers' functions
    values = {option: each.draw(draw, specimen.shape) for option, each in drawn.items()}
    seed = draw(options.below(options.SEEDS)) if specimen.has_parameters else 0
    return problem(name, seed=seed, x=x, baseline=baseline, **{**specimen.options, **values})
