"""Not an experiment: the attribution methods of the library as rows of the table of axioms."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from xattr import axioms, composites, paths, quadrature, rules
from xattr.axioms import Gap
from xattr.testing import AXIOMS, Problem, options
from xattr.types import (
    Array,
    ArrayTree,
    Function,
    Method,
    Path,
    Quadrature,
    UncoveredPrimitiveError,
)

RULE = quadrature.composite(quadrature.gauss_legendre(5), 48)
"""48 is a multiple of the number of parts of every path here."""
NODES = len(RULE.nodes)

Measure = Callable[[Problem], Gap]


class Row(NamedTuple):
    """A method and how it is tried.

    `refined` as for `xattr.axioms`. `measured`: axiom -> its gap on a problem, where it takes more
    than the method itself. `silent`: axiom -> why it has nothing to say of the method. `times` as
    many problems are drawn as for others: of a method that is for few functions.
    """

    method: Method
    refined: Sequence[Method] | None = ()
    measured: Mapping[str, Measure] = {}
    silent: Mapping[str, str] = {}
    times: int = 1


# Path methods -----------------------------------------------------------------------------------

IG = functools.partial(xattr.integrated_gradients, quadrature=RULE, chunk_size=NODES)


def powers(baseline: Any, x: Any) -> Path:
    """Return the path on which features move as α, α², α³ by turns."""
    exponents = np.arange(x.size).reshape(x.shape) % 3 + 1.0
    return paths.monotone(baseline=baseline, x=x, exponents=jnp.asarray(exponents, x.dtype))


def coordinates(baseline: Any, x: Any) -> Path:
    """Return the path of one feature after the other."""
    return paths.coordinatewise(baseline=baseline, x=x, order=range(x.size))


def detour(baseline: Any, x: Any) -> Path:
    """Return the path over a point beyond x: feature k is half of k too far."""
    beyond = x + jnp.asarray(np.arange(x.size).reshape(x.shape) / 2, x.dtype)
    return paths.polyline(jnp.stack([baseline, beyond, x]))


def bent(baseline: Any, x: Any) -> Path:
    """Return the path of theorem 1: every other feature runs ahead between two points.

    At γᵢ = a + (b − a) √s and γⱼ = a + (b − a) s², with a = ¼ and b = ¾ of the way; s = t², so that
    the velocity is finite.
    """
    exponents = jnp.asarray(np.arange(x.size).reshape(x.shape) % 2 * 3 + 1.0, x.dtype)
    first, last = (baseline + (x - baseline) * part for part in (0.25, 0.75))
    middle = paths.monotone(baseline=first, x=last, exponents=exponents)
    ends = paths.straight_line(baseline=baseline, x=first), paths.straight_line(baseline=last, x=x)
    return paths.concatenate([ends[0], middle, ends[1]])


def own_pace(baseline: Any, x: Any) -> Path:
    """Return γᵢ = x'ᵢ + Δᵢ α^(1 + |Δᵢ|), Δ = x − x': features that move as far move alike."""
    return paths.monotone(baseline=baseline, x=x, exponents=1 + jnp.abs(x - baseline))


def along(
    make: Callable[[Any, Any], Path],
    f: Function,
    x: Any,
    baseline: Any,
    *,
    quadrature: Quadrature = RULE,
    args: tuple[Any, ...] = (),
) -> ArrayTree:
    """Return the path integral along a path that is made for these two ends."""
    return xattr.path_integral(
        f, make(baseline, x), quadrature=quadrature, args=args, chunk_size=NODES
    )


def guided(f: Function, x: Any, baseline: Any, *, steps: int = 100, args: Any = ()) -> ArrayTree:
    """Return guided integrated gradients that may go far from the straight line."""
    return xattr.guided_integrated_gradients(
        f, x, baseline, steps=steps, max_distance=0.25, args=args
    )


def directional(f: Function, x: Any, baseline: Any, *, args: tuple[Any, ...] = ()) -> ArrayTree:
    """Return integrated directional gradients along the straight line."""
    path = paths.straight_line(baseline=baseline, x=x)
    return xattr.integrated_directional_gradients(f, path, steps=NODES, args=args)


def exact(f: Function, x: Any, baseline: Any, *, args: tuple[Any, ...] = ()) -> ArrayTree:
    """Return integrated gradients with a node for each linear piece, filled up with nodes of 0."""
    rule = xattr.exact_quadrature(f, x, baseline, args=args)
    more = max(0, NODES - len(rule.nodes))
    padded = Quadrature(np.pad(rule.nodes, (0, more), mode="edge"), np.pad(rule.weights, (0, more)))
    return xattr.integrated_gradients(
        f, x, baseline, quadrature=padded, args=args, chunk_size=NODES
    )


FINER = (1e-8, 1e-12)
"""Tolerances to which an adaptive integral is refined: at the first it may go no further."""


def along_adaptively(
    f: Function, path: Path, *, rtol: float = 1e-6, args: tuple[Any, ...] = ()
) -> ArrayTree:
    """Return the attributions along a path, integrated to a tolerance."""
    return xattr.integrate_to_tolerance(
        f, path, rtol=rtol, atol=rtol / 100, max_evaluations=4_000, args=args
    ).attributions


def adaptive(
    f: Function, x: Any, baseline: Any, *, rtol: float = 1e-6, args: tuple[Any, ...] = ()
) -> ArrayTree:
    """Return integrated gradients, integrated to a tolerance."""
    return along_adaptively(f, paths.straight_line(baseline=baseline, x=x), rtol=rtol, args=args)


def _at_pace(make: Callable[[Any, Any], Path], problem: Problem) -> Gap:
    """Measure how the pace on a path matters, with the fixed rule."""
    return axioms.time_reparametrization(
        functools.partial(xattr.path_integral, quadrature=RULE, chunk_size=NODES),
        problem.f,
        make(problem.baseline, problem.x),
        warp=options.WARPS[problem.options["warp"]],
        args=problem.args,
    )


def _at_pace_adaptively(problem: Problem) -> Gap:
    """Measure it of the adaptive integral, with a warp that needs no compilation for each path."""
    return axioms.time_reparametrization(
        along_adaptively,
        problem.f,
        paths.straight_line(baseline=problem.baseline, x=problem.x),
        warp=jnp.square,
        args=problem.args,
        refined=[functools.partial(along_adaptively, rtol=rtol) for rtol in FINER],
    )


def _path(make: Callable[[Any, Any], Path], method: Method | None = None) -> Row:
    pace = {"time_reparametrization": functools.partial(_at_pace, make)}
    return Row(functools.partial(along, make) if method is None else method, None, pace)


def _from_zero(axiom: str, method: Method, problem: Problem) -> Gap:
    """Measure an axiom at the baseline of Aumann–Shapley, which is 0."""
    x, zero = problem.x - problem.baseline, jnp.zeros_like(problem.x)
    if "feature" in problem.options:  # of an input that differs from 0 in that one alone
        x = jnp.where(np.arange(x.size).reshape(x.shape) == problem.options["feature"], x, zero)
    return dataclasses.replace(problem, x=x, baseline=zero).gap(axiom, method)


def _aumann_shapley() -> Row:
    method = functools.partial(xattr.aumann_shapley, quadrature=RULE, chunk_size=NODES)
    row = _path(lambda baseline, x: paths.aumann_shapley(x), method)
    names = ("completeness", "sensitivity_a", "positivity", "proportionality")
    return row._replace(
        measured={
            **row.measured,
            **{name: functools.partial(_from_zero, name, method) for name in names},
        }
    )


def _followed(problem: Problem) -> Gap:
    """Measure input invariance with a baseline that moves with the input."""
    moved = problem.baseline + problem.options["shift"]
    return problem.gap("input_invariance", IG, shifted_baseline=moved)


def expected(
    shifts: Sequence[float],
    f: Function,
    x: Any,
    baseline: Any,
    *,
    num_samples: int = NODES,
    args: tuple[Any, ...] = (),
) -> ArrayTree:
    """Return expected gradients over baselines around the one given."""
    baselines = jnp.stack([baseline + shift for shift in shifts])
    key = jax.random.key(num_samples)
    return xattr.expected_gradients(
        f, x, baselines, key, num_samples=num_samples, args=args, chunk_size=NODES
    )


def _sampled(method: Method, samples: int) -> Row:
    """Refine by two and three times the samples and one more, from other keys.

    With whole multiples a kink has the same share of the samples, and the error of the share would
    not show.
    """
    finer = [functools.partial(method, num_samples=times * samples + 1) for times in (2, 3)]
    return Row(functools.partial(method, num_samples=samples), finer)


# Gradients --------------------------------------------------------------------------------------

COPIES = 16


def halfway(f: Function, x: Any, baseline: Any, *, args: tuple[Any, ...] = ()) -> Any:
    """Return the interior gradient at α = ½."""
    return xattr.interior_gradients(f, x, baseline, alphas=np.array([0.5]), args=args)[0]


def noisy(
    average: Method, f: Function, x: Any, *, args: tuple[Any, ...] = (), **options: Any
) -> ArrayTree:
    """Return moments over noise that is the same for each function and input."""
    return average(
        f, x, jax.random.key(0), num_samples=COPIES, args=args, chunk_size=COPIES, **options
    )


def _noisy(average: Method) -> Row:
    return Row(functools.partial(noisy, average))


def noisy_integrated(
    f: Function, x: Any, baseline: Any, *, args: tuple[Any, ...] = ()
) -> ArrayTree:
    """Return the mean of integrated gradients over noise."""
    rule = quadrature.gauss_legendre(16)
    method = functools.partial(
        xattr.integrated_gradients, baseline=baseline, quadrature=rule, chunk_size=16
    )
    return noisy(xattr.smooth_grad, f, x, args=args, method=method)


def edges(f: Function, x: Any, *, args: tuple[Any, ...] = ()) -> jax.Array:
    """Return the edges of x, as an image of one line if it is none."""
    image = x if x.ndim > 1 else x[None]
    return xattr.edge_detector(image).reshape(x.shape)


# Patterns ---------------------------------------------------------------------------------------


def fitted(estimator: Any, f: Function, x: Any, args: tuple[Any, ...]) -> dict[str, jax.Array]:
    """Return the patterns of f in data around x: they move with x."""
    noise = np.random.default_rng(0).normal(size=(64, *x.shape))
    data = x[None] + jnp.asarray(noise, x.dtype)
    try:
        return xattr.fit_patterns(f, data, estimator=estimator, args=args)
    except ValueError as error:
        if "no dense or convolutional layer" not in str(error):
            raise
        raise UncoveredPrimitiveError(str(error)) from error


def with_patterns(
    method: Method, estimator: Any, f: Function, x: Any, *, args: tuple[Any, ...] = ()
) -> ArrayTree:
    """Return what a method with patterns gives, fitted anew for f and x."""
    return method(f, x, fitted(estimator, f, x, args), args=args)


def _patterned(method: Method, estimator: str) -> Row:
    """Return a row of more problems: most functions have no layer to fit a pattern for."""
    return Row(functools.partial(with_patterns, method, estimator), times=4)


def _kept(problem: Problem) -> Gap:
    """Measure input invariance with the patterns of the network before the shift."""
    patterns = fitted("relu", problem.f, problem.x, problem.args)
    method = functools.partial(xattr.pattern_attribution, patterns=patterns)
    try:
        return problem.gap("input_invariance", method, refined=())
    except ValueError as error:  # the shifted layers have other names
        if "another network" not in str(error):
            raise
        raise UncoveredPrimitiveError(str(error)) from error


# Features left out ------------------------------------------------------------------------------


def estimated(
    method: Method, number: int, f: Function, x: Any, baseline: Any, *, args: tuple[Any, ...] = ()
) -> ArrayTree:
    """Return what a sample of coalitions or orders gives, with one key."""
    asked = "num_permutations" if method is xattr.shapley_sampling else "num_samples"
    options = {asked: number}
    return method(f, x, baseline, jax.random.key(0), args=args, **options).attributions


def windows(f: Function, x: Any, baseline: Any, *, args: tuple[Any, ...] = ()) -> ArrayTree:
    """Return the occlusion by windows of two, where x has as many along its first axis."""
    return xattr.occlusion(f, x, baseline, window=min(2, len(x)), stride=1, args=args)


# Layers -----------------------------------------------------------------------------------------

LAYER = "hidden"


def _named(method: Method, f: Function, x: Any, *ends: Any, **options: Any) -> Any:
    """Call a method of the layer, which only some functions have."""
    try:
        return method(f, x, *ends, layer=LAYER, **options)
    except ValueError as error:
        if "layer" not in str(error) and "image" not in str(error):
            raise
        raise UncoveredPrimitiveError(str(error)) from error


def of_layer(
    method: Method,
    f: Function,
    x: Any,
    baseline: Any,
    *,
    quadrature: Quadrature = RULE,
    args: tuple[Any, ...] = (),
) -> Any:
    """Return attributions of the hidden layer, where f has one."""
    return _named(method, f, x, baseline, quadrature=quadrature, args=args, chunk_size=NODES)


def whole_layer(
    method: Method,
    f: Function,
    x: Any,
    baseline: Any,
    *,
    quadrature: Quadrature = RULE,
    args: tuple[Any, ...] = (),
) -> Any:
    """Return what the hidden layer gets in all, in equal parts for the features of x."""
    units = of_layer(method, f, x, baseline, quadrature=quadrature, args=args)
    return jnp.full_like(x, jnp.sum(units) / x.size)


def on_image(method: Method, f: Function, x: Any, *, args: tuple[Any, ...] = ()) -> Any:
    """Return a map of an image by its hidden convolution, as one of x."""
    return _named(method, f, x, args=args).reshape(x.shape)


def _at_input(method: Method, problem: Problem) -> Gap:
    """Measure conservation at the input alone."""
    return problem.gap("conservation", method, refined=(), layers=())


NOT_OF_X = "attributes to units of a layer, not to features of x"
OF_PAIRS = "attributes to pairs of features, not to features of x"
NO_CONVOLUTION = "no convolution among this axiom's functions has a layer of that name"


def _layer(method: Method) -> Row:
    of_units = functools.partial(of_layer, method)
    total = functools.partial(whole_layer, method)
    kept = ("completeness", "zero_at_baseline")
    return Row(
        of_units,
        None,
        {"completeness": lambda problem: problem.gap("completeness", total)},
        {name: NOT_OF_X for name in AXIOMS if name not in kept},
    )


def _camera(method: Method) -> Row:
    bound = functools.partial(on_image, method)
    kept = ("completeness", "sensitivity_a", "affine_scale_invariance", "conservation")
    return Row(
        bound,
        (),
        {"conservation": functools.partial(_at_input, bound)},
        {name: NO_CONVOLUTION for name in AXIOMS if name not in (*kept, "zero_at_baseline")},
        times=25,
    )


# The table --------------------------------------------------------------------------------------


def _lrp(composite: composites.Composite, **options: Any) -> Row:
    method = functools.partial(xattr.lrp, composite=composite, **options)
    return Row(method, refined=[functools.partial(_at_the_next_number, method)])


def _at_the_next_number(method: Method, f: Function, x: Any, *, args: Any = ()) -> Any:
    """Measure what rounding costs a share: its denominator may almost cancel."""
    return method(f, x * (1 + float(np.finfo(x.dtype).eps)), args=args)


def _every(rule: rules.Rule, **options: Any) -> Row:
    return _lrp(composites.every_layer(rule), **options)


def _only(axiom: str, measure: Measure, reason: str) -> Row:
    return Row(
        xattr.gradient, (), {axiom: measure}, {name: reason for name in AXIOMS if name != axiom}
    )


def _all_silent(method: Method, reason: str) -> Row:
    return Row(method, (), {}, dict.fromkeys(AXIOMS, reason))


def derived(method: Method) -> Row | None:
    """Return the row of a method(f, x, ...) by its signature; None for what is of another form."""
    signature = inspect.signature(method)
    asked = [p.name for p in signature.parameters.values() if p.default is p.empty]
    if asked[:2] != ["f", "x"] or signature.return_annotation not in (ArrayTree, Array):
        return None
    if asked == ["f", "x"]:
        return Row(method, None if "quadrature" in signature.parameters else ())
    if asked == ["f", "x", "key"]:
        return _noisy(method)
    return _all_silent(method, NOT_OF_X) if asked == ["f", "x", "layer"] else None


LISTED: dict[str, Row] = {
    "gradient": Row(xattr.gradient),
    "gradient_x_input": Row(xattr.gradient_x_input),
    "interior_gradients, α = ½": Row(halfway),
    "integrated_gradients": _path(
        lambda baseline, x: paths.straight_line(baseline=baseline, x=x), IG
    ),
    "integrated_gradients, moving baseline": _only(
        "input_invariance", _followed, "as integrated_gradients"
    ),
    "integrated_gradients, exact_quadrature": Row(exact),
    "integrate_to_tolerance": Row(
        adaptive,
        [functools.partial(adaptive, rtol=rtol) for rtol in FINER],
        {"time_reparametrization": _at_pace_adaptively},
    ),
    "aumann_shapley": _aumann_shapley(),
    "path_integral, powers": _path(powers),
    "path_integral, coordinates": _path(coordinates),
    "path_integral, detour": _path(detour),
    "path_integral, serial": _path(
        lambda baseline, x: paths.serial(baseline=baseline, x=x),
    ),
    "path_integral, bent": _path(bent),
    "path_integral, depends on its ends": _path(own_pace),
    "guided_integrated_gradients": Row(
        guided, [functools.partial(guided, steps=steps) for steps in (170, 290)]
    ),
    "integrated_directional_gradients": Row(directional),
    "expected_gradients, 1 baseline": _sampled(functools.partial(expected, (0.0,)), NODES),
    "expected_gradients, 3 baselines": _sampled(
        functools.partial(expected, (0.0, 0.5, -0.5)), NODES
    ),
    "smooth_grad": _noisy(xattr.smooth_grad),
    "smooth_grad, integrated_gradients": Row(noisy_integrated),
    "smooth_grad_squared": _noisy(xattr.smooth_grad_squared),
    "var_grad": _noisy(xattr.var_grad),
    "guided_backprop": Row(xattr.guided_backprop),
    "deconvnet": Row(xattr.deconvnet),
    "lrp, zero": _every(rules.zero()),
    "lrp, zero, bias included": _every(rules.zero(), bias="include"),
    "lrp, epsilon": _every(rules.epsilon()),
    "lrp, gamma": _every(rules.gamma()),
    "lrp, z_plus": _every(rules.z_plus()),
    "lrp, alpha2_beta1": _every(rules.alpha_beta(2.0, 1.0)),
    "lrp, epsilon_plus_flat": _lrp(composites.epsilon_plus_flat()),
    "deep_taylor": Row(xattr.deep_taylor),
    "deep_lift, rescale": Row(xattr.deep_lift),
    "deep_lift, reveal_cancel": Row(functools.partial(xattr.deep_lift, variant="reveal_cancel")),
    "pattern_net, relu": _patterned(xattr.pattern_net, "relu"),
    "pattern_attribution, relu": _patterned(xattr.pattern_attribution, "relu"),
    "pattern_attribution, linear": _patterned(xattr.pattern_attribution, "linear"),
    "pattern_attribution, kept patterns": _only(
        "input_invariance", _kept, "patterns kept for another function are not its own"
    ),
    "grad_cam": _camera(xattr.grad_cam),
    "guided_grad_cam": _camera(xattr.guided_grad_cam),
    "layer_integrated_gradients": _layer(xattr.layer_integrated_gradients),
    "conductance": _layer(xattr.conductance),
    "internal_influence": _layer(xattr.internal_influence),
    "layer_gradient": _all_silent(xattr.layer_gradient, NOT_OF_X),
    "competitive_gradient_x_input": _all_silent(
        xattr.competitive_gradient_x_input,
        "takes scores of two classes or more; of one score against 0 it is gradient_x_input",
    ),
    "edge_detector": Row(edges),
    "occlusion, windows of 2": Row(windows),
    "shapley_sampling": Row(functools.partial(estimated, xattr.shapley_sampling, 4)),
    "kernel_shap": Row(functools.partial(estimated, xattr.kernel_shap, 64)),
    "lime": Row(functools.partial(estimated, xattr.lime, 64)),
    "shapley_interactions": _all_silent(xattr.shapley_interactions, OF_PAIRS),
    "rise": _all_silent(xattr.rise, "orders the pixels of an image; a constant f has no zeros"),
    "meaningful_perturbation": _all_silent(
        xattr.meaningful_perturbation, "returns a mask of an image, not shares of f"
    ),
    "integrated_hessians": _all_silent(xattr.integrated_hessians, OF_PAIRS),
    "expected_hessians": _all_silent(xattr.expected_hessians, OF_PAIRS),
}
"""Rows that take more than the method alone: with options, on a path, of a layer, …"""


def rows() -> dict[str, Row]:
    """Return the rows that are listed, and those of the other methods of the library."""
    named = {name.split(",")[0] for name in LISTED}
    others = {name: getattr(xattr, name) for name in xattr.__all__ if name not in named}
    found = {name: derived(each) for name, each in others.items() if inspect.isfunction(each)}
    return {**LISTED, **{name: row for name, row in found.items() if row is not None}}


ROWS = rows()
"""Name -> row: those of the table, in its order."""


def gap(name: str, axiom: str, problem: Problem) -> Gap:
    """Measure by how much a method of the table misses an axiom on a problem."""
    return gap_of(ROWS[name], axiom, problem)


def gap_of(row: Row, axiom: str, problem: Problem) -> Gap:
    """Measure by how much the method of a row misses an axiom on a problem."""
    if axiom in row.measured:
        return row.measured[axiom](problem)
    return problem.gap(axiom, row.method, refined=row.refined)
