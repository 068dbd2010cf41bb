"""Hypothesis strategies for tests of attribution methods: structure from menus, values by seed.

What is drawn has one of a few shapes, and functions that are made once: an example more costs a
call, not a compilation. `hypothesis` comes with `pip install 'xattr-jax[test]'`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xattr import quadrature
from xattr.testing.functions import AXIOMS, NETWORK_SPECIMENS, SPECIMENS
from xattr.testing.instances import PATHS, WARPS, Problem, axiom_of, floats, problem
from xattr.types import Path, Quadrature

if TYPE_CHECKING:
    import jax
    from hypothesis.strategies import DrawFn, SearchStrategy

STEPS = 6
"""Coordinates lie between −3 and 3, half a unit apart."""

SEEDS = 999

SCALES = (2.0, 0.5, -3.0, 10.0)

QUADRATURES: dict[str, Callable[[int], Quadrature]] = {
    "gauss_legendre": quadrature.gauss_legendre,
    "midpoint": quadrature.midpoint,
    "trapezoid": quadrature.trapezoid,
    "riemann_left": quadrature.riemann_left,
    "riemann_right": quadrature.riemann_right,
}


def _hypothesis() -> Any:
    """Return hypothesis.strategies, or say how to get it."""
    try:
        from hypothesis import strategies
    except ImportError as error:
        raise ImportError(
            "`xattr.testing` draws with hypothesis, which is not installed: "
            "pip install 'xattr-jax[test]'"
        ) from error
    return strategies


def problems(axiom: str) -> SearchStrategy[Problem]:
    """Draw problems that keep what an axiom presupposes.

    P = (f, x, baseline, args, options) with f from `xattr.testing.AXIOMS[axiom]`, the simplest
    first: what a counterexample shrinks to.

    Shapes: x and the baseline have the shape of the specimen, at most 16 features; some are at
    their baseline. Raises `ValueError` for an axiom that is not there, `ImportError` without
    hypothesis.
    Source: MacIver et al. 2019, "Hypothesis: a new approach to property-based testing".

    >>> import hypothesis, xattr
    >>> p = hypothesis.find(problems("symmetry"), lambda p: p.name == "product")
    >>> p.options
    {'i': 0, 'j': 1}
    """
    axiom_of(axiom)
    return _drawn(AXIOMS[axiom], axiom)


def networks() -> SearchStrategy[Problem]:
    """Draw networks: dense, convolutional, residual, attention; relu, gelu, softplus, tanh.

    P = (f, x, baseline, args) with f(x, *args) = the score of one class.

    Shapes: x has shape (4,), (4, 4, 1) or (3, 2). The layer "hidden" is named.
    Raises `ImportError` without hypothesis.
    Source: `xattr.testing.AXIOMS["completeness"]`, beside functions of papers.

    >>> import hypothesis
    >>> hypothesis.find(networks(), lambda p: p.name == "dense-relu").x.shape
    (4,)
    """
    return _drawn(tuple(NETWORK_SPECIMENS), "")


def symmetric_functions() -> SearchStrategy[Problem]:
    """Draw functions that are the same when features i and j change places.

    f(…, xᵢ, …, xⱼ, …) = f(…, xⱼ, …, xᵢ, …), with i and j in `problem.options`.

    Shapes: x has shape (2,) or (4,). Raises `ImportError` without hypothesis.
    Source: Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", §4.1.

    >>> import hypothesis
    >>> hypothesis.find(symmetric_functions(), lambda p: True).name
    'product'
    """
    return problems("symmetry")


def dummy_functions() -> SearchStrategy[Problem]:
    """Draw functions that do not depend on a feature, plainly or in disguise.

    ∂f/∂xᵢ = 0 everywhere, with i in `problem.options["feature"]`.

    Shapes: x has shape (2,), (3,) or (4,). Raises `ImportError` without hypothesis.
    Source: Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", §3.

    >>> import hypothesis
    >>> hypothesis.find(dummy_functions(), lambda p: True).options
    {'feature': 1}
    """
    return problems("sensitivity_b")


def equivalent_pairs() -> SearchStrategy[Problem]:
    """Draw pairs of functions that are equal and written in two ways.

    f(x, *args) = g(x, *args): figures 7 and 14, permuted and split neurons, an identity layer, a
    ReLU rewritten.

    Shapes: x has shape (2,) or (4,). Raises `ImportError` without hypothesis.
    Source: Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", figure 7;
    Sundararajan et al. 2016, "Gradients of Counterfactuals", figure 14.

    >>> import hypothesis
    >>> p = hypothesis.find(equivalent_pairs(), lambda p: True)
    >>> float(p.f(p.x, *p.args) - p.g(p.x, *p.args))
    0.0
    """
    return problems("implementation_invariance")


def shifted_pairs() -> SearchStrategy[Problem]:
    """Draw networks and a constant shift of their input that the first bias undoes.

    g(x + m, m, *args) = f(x, *args), with m in `problem.options["shift"]`.

    Shapes: x and m have shape (2,), (4,) or (4, 4, 1). Raises `ImportError` without hypothesis.
    Source: Kindermans, Hooker et al. 2017, "The (Un)reliability of saliency methods", §2.

    >>> import hypothesis
    >>> hypothesis.find(shifted_pairs(), lambda p: True).name
    'shifted-linear'
    """
    return problems("input_invariance")


def inputs(shape: Sequence[int]) -> SearchStrategy[tuple[jax.Array, jax.Array]]:
    """Draw an input and a baseline, with ties: features that are at their baseline.

    xᵢ = kᵢ/2 + c/10, c = 1, 2, 3, 4, 1, …: no sum or difference of two lies on a kink of the
    papers' networks.

    Shapes: both have the shape asked for, in the default precision. Raises `ImportError` without
    hypothesis.
    Source: Sundararajan et al. 2016, "Gradients of Counterfactuals", §2.3 (features at their
    baseline get nothing).

    >>> import hypothesis
    >>> x, baseline = hypothesis.find(inputs((3,)), lambda drawn: True)
    >>> x.shape, baseline.shape
    ((3,), (3,))
    """
    pair: SearchStrategy[tuple[jax.Array, jax.Array]]
    pair = _hypothesis().composite(_inputs)(tuple(shape))
    return pair.map(lambda drawn: (floats(drawn[0]), floats(drawn[1])))


def paths(baseline: jax.Array, x: jax.Array) -> SearchStrategy[Path]:
    """Draw paths between two arrays: straight, monotone, polylines, coordinate by coordinate.

    γ(0) = baseline, γ(1) = x.

    Shapes: both are arrays of one shape. Raises `ImportError` without hypothesis.
    Source: Sundararajan et al. 2016, "Gradients of Counterfactuals", §2.4 and eq. 6.

    >>> import hypothesis, jax.numpy as jnp
    >>> path = hypothesis.find(paths(jnp.zeros(2), jnp.ones(2)), lambda path: True)
    >>> path(0.5)
    Array([0.5, 0.5], dtype=float32)
    """
    st = _hypothesis()
    drawn: SearchStrategy[Path] = st.builds(
        lambda kind, seed: PATHS[kind](baseline, x, np.random.default_rng(seed)),
        st.sampled_from(list(PATHS)),
        _below(SEEDS),
    )
    return drawn


def quadratures(n: int) -> SearchStrategy[Quadrature]:
    """Draw quadratures of a fixed number of nodes, so that nothing is compiled twice.

    ∫₀¹ g(α) dα ≈ Σₖ wₖ g(αₖ): Gauss–Legendre, midpoint, trapezoidal and Riemann, whole and on
    two pieces.

    Shapes: nodes and weights (n,), n even. Raises `ValueError` for an n that is not, `ImportError`
    without hypothesis.
    Source: `xattr.quadrature`.

    >>> import hypothesis
    >>> drawn = hypothesis.find(quadratures(4), lambda drawn: True)
    >>> len(drawn.nodes), round(float(sum(drawn.weights)), 6)
    (4, 1.0)
    """
    if n < 4 or n % 2:
        raise ValueError(f"`n` must be an even number of at least 4, not {n!r}")
    st = _hypothesis()
    whole = [make(n) for make in QUADRATURES.values()]
    halves = [quadrature.composite(make(n // 2), 2) for make in QUADRATURES.values()]
    drawn: SearchStrategy[Quadrature] = st.sampled_from([*whole, *halves])
    return drawn


def _drawn(names: tuple[str, ...], axiom: str) -> SearchStrategy[Problem]:
    drawn: SearchStrategy[Problem] = _hypothesis().composite(_problem)(names, axiom)
    return drawn


def _inputs(draw: DrawFn, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    st, size = _hypothesis(), math.prod(shape)
    places = np.arange(size) % 4 + 1
    x = _steps(draw, size) / 2 + places / 10
    # Off the half steps: from there nodes of equal distance would lie on kinks of the papers.
    baseline = _steps(draw, size) / 2 + 0.0371 * places
    baseline = baseline if draw(st.booleans()) else np.zeros(size)
    tied = _steps(draw, size) > STEPS / 2
    return x.reshape(shape), np.where(tied, x, baseline).reshape(shape)


def _steps(draw: DrawFn, size: int) -> np.ndarray:
    """Draw whole numbers, by seed for their variety or one by one for simple counterexamples."""
    st = _hypothesis()
    if draw(st.booleans()):
        random = np.random.default_rng(draw(_below(SEEDS)))
        return random.integers(-STEPS, STEPS + 1, size)
    return np.array(draw(st.lists(_whole(), min_size=size, max_size=size)))


def _whole() -> SearchStrategy[int]:
    """Draw from −STEPS to STEPS, the smallest first.

    Not `integers`: hypothesis mixes into these what constants a caller's modules happen to have.
    """
    steps = sorted(range(-STEPS, STEPS + 1), key=abs)
    drawn: SearchStrategy[int] = _hypothesis().sampled_from(steps)
    return drawn


def _below(count: int) -> SearchStrategy[int]:
    drawn: SearchStrategy[int] = _hypothesis().sampled_from(range(count))
    return drawn


def _problem(draw: DrawFn, names: tuple[str, ...], axiom: str) -> Problem:
    st = _hypothesis()
    papers = [name for name in names if not _has_parameters(name)]
    drawn = [name for name in names if _has_parameters(name)]
    name = draw(st.one_of([st.sampled_from(part) for part in (papers, drawn) if part]))
    specimen = SPECIMENS[name]
    size = math.prod(specimen.shape)
    is_of_paper = bool(specimen.witness) and draw(st.booleans())
    x, baseline = _inputs(draw, specimen.shape)
    if is_of_paper:
        x = np.array(specimen.witness)
    if specimen.rises:
        baseline = np.minimum(x, baseline)  # x stays off the kinks of the papers' functions

    half = _whole().map(lambda k: k / 2)
    options: dict[str, Any] = {}
    if axiom == "sensitivity_a":
        options["feature"] = draw(_below(size))
    if axiom == "linearity":
        options |= {"a": draw(half), "b": draw(half)}
    if axiom in ("input_invariance", "affine_scale_invariance"):
        options["shift"] = (_steps(draw, size) / 2).reshape(specimen.shape)
    if axiom == "affine_scale_invariance":
        scales = draw(st.lists(st.sampled_from(SCALES), min_size=size, max_size=size))
        options["scale"] = np.reshape(scales, specimen.shape)
    if axiom == "time_reparametrization":
        options["path"] = draw(st.sampled_from(list(PATHS)))
        options["warp"] = draw(st.sampled_from(list(WARPS)))
    seed = draw(_below(SEEDS)) if _has_parameters(name) else 0
    return problem(name, seed=seed, x=x, baseline=baseline, **{**specimen.options, **options})


def _has_parameters(name: str) -> bool:
    return bool(SPECIMENS[name].draw(np.random.default_rng(0)))
