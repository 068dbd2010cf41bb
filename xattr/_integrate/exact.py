"""Exact quadratures for piecewise linear functions: one node for each linear piece of a line.

Along a straight line a network of dense and convolutional layers, ReLUs and maxima is piecewise
linear. Between two points that no earlier kink separates, the two sides of the next kink are linear
too, and where they cross is known from their values there. At the two points themselves f may jump:
the values on this side of them are extrapolated from within.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr._core import chunks, compilation, trees
from xattr._program import jaxpr, running
from xattr._program.jaxpr import Equation, Program, p
from xattr.types import Array, ArrayTree, Function, Quadrature, UncoveredPrimitiveError

_SHORTEST = 2.0**-48
"""Pieces shorter than this are not told from rounding, of float64."""

_LARGEST = 1e300
"""Stands for infinity, of which no differences can be taken."""

_REMEDY = (
    "For such a function use xattr.integrate_to_tolerance, or integrated gradients with a fixed "
    "quadrature"
)

_NUMBERS = 2**22
"""Numbers taken to the host together; at most 128 parts of the line are."""


def exact_quadrature(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    args: tuple[Any, ...] = (),
    max_pieces: int = 100_000,
) -> Quadrature:
    """Return the quadrature that integrates a piecewise linear f exactly from baseline to x.

    αₖ = (tₖ + tₖ₊₁)/2, wₖ = tₖ₊₁ − tₖ, with 0 = t₀ < t₁ < … < tₙ = 1 all points at which
    f(baseline + α (x − baseline)) can bend. Between them ∇f is constant, so that integrated
    gradients with this quadrature are exact, up to rounding.

    f may be made of dense and convolutional layers, sums, means, constant factors and moves, and of
    ReLU, leaky ReLU, abs, clip, max and min of values or over axes, max-pooling, comparisons and
    choices by them; for a function with jumps, such as `where(x > 0, x + 1, 0)`, the gradient is
    integrated exactly, but completeness misses the jumps.

    Shapes: `f(x, *args)` returns a scalar for one example; `baseline`, zeros if None, is a pytree
    like x. Nodes and weights are NumPy arrays in float64. The points are searched for in float64
    whatever the dtype of f, in about three evaluations of f a piece, and driven from the host,
    since their number depends on values: call it outside `jax.jit` and `jax.vmap`, and pass the
    result on. The quadrature holds for this f, x, baseline and args only.
    Raises `UncoveredPrimitiveError` for an operation that is not piecewise linear, or not known to
    be, and for a function with a derivative of its own that is not the derivative of its values (it
    names the operation and its source line), `ValueError` for more than `max_pieces` pieces and for
    values that are not finite, `TypeError` inside a trace.
    Source: Montúfar et al. 2014, "On the Number of Linear Regions of Deep Neural Networks";
    Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", eq. 1.

    >>> import jax, jax.numpy as jnp, xattr
    >>> f = lambda x: 1 - jax.nn.relu(1 - x)
    >>> quadrature = xattr.exact_quadrature(f, jnp.array(4.0))
    >>> quadrature
    Quadrature(nodes=array([0.125, 0.625]), weights=array([0.25, 0.75]))
    >>> xattr.integrated_gradients(f, jnp.array(4.0), quadrature=quadrature)
    Array(1., dtype=float32)
    """
    compilation.check_callable(f, "f")
    compilation.check_args(args)
    trees.check_count(max_pieces, "max_pieces")
    x = trees.floating(x, "x")
    baseline = trees.baseline_like(baseline, x)
    if chunks.is_staged() or trees.is_traced(x, baseline, args):
        raise TypeError(
            "`exact_quadrature` cannot be traced, since the number of pieces depends on values: "
            "call it outside jax.jit, jax.vmap and jax.grad, one example at a time, and pass the "
            "quadrature to xattr.integrated_gradients; xattr.integrate_to_tolerance can be traced"
        )
    x64 = jax.dtypes.canonicalize_dtype(np.float64).itemsize == 8
    args = jax.tree.map(jnp.asarray, args)  # as f sees them, before the switch to float64
    with jax.enable_x64(True):
        program = functools.partial(
            compilation.compiled(sides_kernel, f, x64=x64), x, baseline, args
        )
        ends = _ends(program, max_pieces)
    return Quadrature((ends[:-1] + ends[1:]) / 2, np.diff(ends))


# The search, on the host.


class _Pieces(NamedTuple):
    """Parts of [0, 1], in order; before its `kink` none of the program bends a part."""

    start: np.ndarray
    end: np.ndarray
    kink: np.ndarray


def _ends(program: Callable[[Array, Array], Any], max_pieces: int) -> np.ndarray:
    """Return all points where a piece ends, from 0 to 1."""
    shapes, _ = jax.eval_shape(program, jnp.zeros(1), jnp.ones(1))
    numbers = sum(shape.size for shape in shapes)
    size = int(np.clip(_NUMBERS // max(numbers, 1), 1, 128))
    todo = _Pieces(np.zeros(1), np.ones(1), np.zeros(1, int))
    done: list[np.ndarray] = [np.ones(1)]
    count = 0
    while len(todo.start):
        if count + len(todo.start) > max_pieces:
            raise ValueError(
                f"the line from `baseline` to `x` has more than `max_pieces`={max_pieces} linear "
                "pieces: raise it, or use xattr.integrate_to_tolerance"
            )
        now, todo = (_Pieces(*(a[part] for a in todo)) for part in (np.s_[:size], np.s_[size:]))
        padding = (0, size - len(now.start))
        padded = [jnp.asarray(np.pad(a, padding, mode="edge")) for a in (now.start, now.end)]
        sides, differs = jax.device_get(program(*padded))
        if not all(np.isfinite(values).all() for values in sides):
            raise ValueError(
                "`f` is not finite on the line from `baseline` to `x`: look for NaN in x, in the "
                "baseline and in `args`"
            )
        for call, wrong in differs.items():
            if wrong.any():
                raise UncoveredPrimitiveError(
                    f"`f` has a derivative of its own that is not that of its values: {call}. "
                    f"{_REMEDY}"
                )
        whole, parts = _bent(now, sides)
        done.append(whole)
        count += len(whole)
        todo = _Pieces(*map(np.concatenate, zip(parts, todo, strict=True)))
    return np.sort(np.concatenate(done))


def _bent(now: _Pieces, values: list[np.ndarray]) -> tuple[np.ndarray, _Pieces]:
    """Return where the parts that nothing bends start, and the parts that the others fall into.

    `values` are the sides of each kink at both ends of every part.
    """
    straight = np.arange(len(now.start))
    new: list[tuple[float, float, int]] = []
    for kink, sides in enumerate(values):
        looked_at = straight[now.kink[straight] <= kink]
        largest = sides.argmax(axis=-1)[looked_at]
        rows, groups = np.nonzero(largest[:, 0] != largest[:, 1])
        places = looked_at[rows]
        found, fractions = crossings(sides[places, 0, groups], sides[places, 1, groups])
        places = places[found]
        bent = set()
        for place in np.unique(places):
            ends = _distinct(now.start[place], now.end[place], fractions[places == place])
            if len(ends) > 2:
                bent.add(place)
                new += [(a, b, kink + 1) for a, b in itertools.pairwise(ends)]
        straight = np.array([s for s in straight if s not in bent], int)
    new.sort()
    start, end, kinks = np.array(new).reshape(-1, 3).T
    return now.start[straight], _Pieces(start, end, kinks.astype(int))


def _distinct(start: float, end: float, fractions: np.ndarray) -> list[float]:
    """Return the ends of a part and the points in it, but none that rounding may have made."""
    ends = [start]
    for point in np.sort(start + (end - start) * fractions):
        if point - ends[-1] > _SHORTEST and end - point > _SHORTEST:
            ends.append(float(point))
    return [*ends, end]


def crossings(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the largest of several linear functions changes, for many groups of them.

    Groups are rows, of values at both ends; the result is the number of the group and the place,
    from 0 at the first to 1 at the second end. There may be more places than changes.
    """
    groups = np.arange(len(before))
    low, high = before.argmax(axis=1), after.argmax(axis=1)
    found = [(groups[:0], before[:0, 0])]
    while len(groups):
        differs = low != high
        groups, low, high = groups[differs], low[differs], high[differs]
        ahead = before[groups, low] - before[groups, high]
        behind = after[groups, high] - after[groups, low]
        meets = ahead + behind > 0
        groups, low, high = groups[meets], low[meets], high[meets]
        place = ahead[meets] / (ahead + behind)[meets]
        # A third function may lie above the crossing of two: look on both sides of it.
        values = before[groups] * (1 - place)[:, None] + after[groups] * place[:, None]
        top, rows = values.argmax(axis=1), np.arange(len(groups))
        here, there = values[rows, top], values[rows, low]
        above = here - there > 1e-13 * (np.abs(here) + np.abs(there))
        above &= (top != low) & (top != high)
        found.append((groups[~above], place[~above]))
        groups = np.concatenate([groups[above]] * 2)
        low, high = (
            np.concatenate(pair) for pair in ([low[above], top[above]], [top[above], high[above]])
        )
    rows, places = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return rows, places


# The program, in float64.


class _Term(NamedTuple):
    """A value of the program: constant on a piece of the line (degree 0), or linear (1)."""

    value: Any
    degree: int


class _Found(NamedTuple):
    """What a run of the program finds out, in program order."""

    sides: list[Array]
    differs: dict[str, Array]
    """Call with a derivative of its own -> whether that is not the derivative of its values."""
    x64: bool
    """Whether the author of f runs it in float64."""


def sides_kernel(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree,
    args: tuple[Any, ...],
    start: Array,
    end: Array,
    *,
    x64: bool,
) -> tuple[list[Array], dict[str, Array]]:
    """Return for every kink of f its sides at both ends of parts of the line, seen from within.

    They are of shape (parts, 2, kinks, sides) and hold up to where an earlier kink bends the part.
    """
    with jax.enable_x64(x64):
        program, operands = jaxpr.trace(compilation.checked(f), x, args, whole="always")
    line = [(_wide(a), _wide(b)) for a, b in zip(*map(jax.tree.leaves, (baseline, x)), strict=True)]

    def at(alpha: Array) -> tuple[list[Array], dict[str, Array]]:
        terms = [_Term((1 - alpha) * first + alpha * last, 1) for first, last in line]
        terms += [_Term(value, 0) for value in operands[len(line) :]]
        found = _Found([], {}, x64)
        _run(program, terms, found)
        return [jnp.clip(sides, -_LARGEST, _LARGEST) for sides in found.sides], found.differs

    quarter = (end - start) / 4
    near, differs = jax.vmap(at)(jnp.concatenate([start + quarter, end - quarter]))
    return [_extrapolated(*jnp.split(sides, 2)) for sides in near], differs


def _extrapolated(first: jax.Array, last: jax.Array) -> jax.Array:
    """Return the values at both ends of parts from those at a quarter and at three."""
    step = (last - first) / 2
    return jnp.stack([first - step, last + step], axis=1)


def _run(program: Program, inputs: list[_Term], found: _Found) -> list[_Term]:
    """Run a program; add what is found."""
    env = {value: _Term(constant, 0) for value, constant in program.constants.items()}
    env.update(zip(program.inputs, inputs, strict=True))

    def read(atom: Any) -> _Term:
        return _Term(atom.array, 0) if isinstance(atom, jaxpr.Literal) else env[atom]

    for equation in program.equations:
        terms = [read(atom) for atom in equation.inputs]
        if not any(term.degree for term in terms):
            values = running.run(equation, _as_written(equation, terms))
            results = [_Term(value, 0) for value in values]
        elif equation.is_call or equation.primitive is p.remat_p:
            results = _run(equation.bodies[0], terms, found)
            if equation.is_call:
                call = f"{equation.name}, at {equation.source}"
                wrong = _derivative_differs(equation, terms, found.x64)
                found.differs[call] = found.differs.get(call, False) | wrong
        else:
            results = _apply(equation, terms, found.sides)
        env.update(zip(equation.outputs, results, strict=True))
    return [read(atom) for atom in program.outputs]


def _as_written(equation: Equation, terms: list[_Term]) -> list[Any]:
    """Return the operands in the dtypes of the program, for which bodies of branches are made."""
    return [
        term.value.astype(atom.dtype) if _is_real(getattr(atom, "dtype", None)) else term.value
        for atom, term in zip(equation.inputs, terms, strict=True)
    ]


def _derivative_differs(equation: Equation, terms: list[_Term], x64: bool) -> jax.Array:
    """Return whether a call's own derivative is not that of its body, near the operands.

    Not at the operands: at its kinks, such as 0 for a ReLU, a function may choose.
    """
    near = [
        _Term(_shaken(term.value, shift) if term.degree else term.value, term.degree)
        for shift, term in enumerate(terms, 1)
    ]
    operands = _as_written(equation, near)
    varied = [place for place, term in enumerate(terms) if term.degree]

    def derivative(apply: Callable[[list[Any]], list[Any]]) -> list[jax.Array]:
        def of_varied(*values: jax.Array) -> list[jax.Array]:
            given = dict(zip(varied, values, strict=True))
            results = apply([given.get(place, value) for place, value in enumerate(operands)])
            return [result for result in results if _is_real(result.dtype)]

        results, pull = jax.vjp(of_varied, *(operands[place] for place in varied))
        weights = [_shaken(jnp.ones_like(r), shift) for shift, r in enumerate(results)]
        return list(pull([w.astype(r.dtype) for w, r in zip(weights, results, strict=True)]))

    with jax.enable_x64(x64):
        own = derivative(functools.partial(running.run, equation))
        true = derivative(functools.partial(running.evaluate, equation.bodies[0]))
    wrong = jnp.array(False)
    for a, b in zip(own, true, strict=True):
        tolerance = float(jnp.finfo(b.dtype).eps) ** 0.5  # type: ignore[no-untyped-call]
        wrong |= ~(jnp.max(jnp.abs(a - b), initial=0) <= tolerance * jnp.max(jnp.abs(b), initial=0))
    return wrong


def _shaken(value: jax.Array, shift: int) -> jax.Array:
    """Return numbers within a few hundredths of the given ones, no two of them the same way."""
    counted = lax.iota(jnp.float32, value.size).reshape(value.shape) + shift
    wave = jnp.sin(counted).astype(value.dtype)
    return value * (1 + wave / 32) + wave / 128


def _apply(equation: Equation, terms: list[_Term], found: list[Array]) -> list[_Term]:
    """Apply one operation in float64; append its sides if it has a kink."""
    operands = [_wide(term.value) for term in terms]
    degree = _degree(equation, [term.degree for term in terms])
    if equation.primitive in _SIDES:
        found += list(_SIDES[equation.primitive](equation, *operands))
    return [_Term(result, degree) for result in running.run_in(np.float64, equation, operands)]


def _is_real(dtype: Any) -> bool:
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.floating))


_wide = functools.partial(running.at_least, np.float64)


_LINEAR = (
    jaxpr.MOVES
    | jaxpr.SPLITS
    | jaxpr.SUMS
    | jaxpr.UPDATES
    | jaxpr.ADDITIONS
    | {p.neg_p, p.pad_p, p.stop_gradient_p, p.select_n_p}
)
_PRODUCTS = jaxpr.WEIGHTED | {p.mul_p}


def _degree(equation: Equation, degrees: list[int]) -> int:
    """Return the degree of what an operation makes of values of these degrees."""
    primitive, real = equation.primitive, _is_real(equation.output.dtype)
    if primitive in _SIDES:
        return int(real and primitive is not p.sign_p)
    product = primitive in _PRODUCTS and sum(degrees) == 1
    quotient = primitive is p.div_p and degrees == [1, 0]
    if real and (primitive in _LINEAR or product or quotient):
        return 1
    raise UncoveredPrimitiveError(
        f"`f` is not piecewise linear in x, as far as is known: {equation.name} of values that "
        f"depend on x, at {equation.source}. {_REMEDY}"
    )


def _pair(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return two sides as their difference and 0."""
    difference = jnp.ravel(a - b)
    return jnp.stack([difference, jnp.zeros_like(difference)], axis=1)


def _of_two(equation: Equation, a: jax.Array, b: jax.Array) -> Iterator[jax.Array]:
    yield _pair(a, b)


def _of_one(equation: Equation, a: jax.Array) -> Iterator[jax.Array]:
    yield _pair(a, jnp.zeros_like(a))


def _of_clamp(
    equation: Equation, low: jax.Array, a: jax.Array, high: jax.Array
) -> Iterator[jax.Array]:
    yield _pair(a, low)
    yield _pair(a, high)


def _of_axes(sign: int, equation: Equation, a: jax.Array) -> Iterator[jax.Array]:
    axes = equation.params["axes"]
    last = jnp.moveaxis(a, axes, range(a.ndim - len(axes), a.ndim))
    yield sign * last.reshape(-1, int(np.prod([a.shape[axis] for axis in axes])))


def _of_window(sign: int, equation: Equation, a: jax.Array) -> Iterator[jax.Array]:
    """Yield the elements under every place of a window, of a shape (windows, elements)."""
    params = equation.params
    inner = [dilation - 1 for dilation in params["base_dilation"]]
    padding = [(*pad, fill) for pad, fill in zip(params["padding"], inner, strict=True)]
    padded = lax.pad(sign * a, jnp.asarray(-_LARGEST, a.dtype), padding)
    strides = params["window_strides"]
    elements = []
    for offset in np.ndindex(*params["window_dimensions"]):
        start = np.multiply(offset, params["window_dilation"])
        limit = start + np.multiply(np.subtract(equation.output.shape, 1), strides) + 1
        elements.append(lax.slice(padded, start, limit, strides).ravel())
    yield jnp.stack(elements, axis=1)


_SIDES: dict[Any, Callable[..., Iterator[jax.Array]]] = {
    **dict.fromkeys(jaxpr.COMPARISONS - {p.is_finite_p}, _of_two),
    **dict.fromkeys((p.max_p, p.min_p), _of_two),
    **dict.fromkeys((p.abs_p, p.sign_p), _of_one),
    p.clamp_p: _of_clamp,
    **dict.fromkeys((p.reduce_max_p, p.argmax_p), functools.partial(_of_axes, 1)),
    **dict.fromkeys((p.reduce_min_p, p.argmin_p), functools.partial(_of_axes, -1)),
    p.reduce_window_max_p: functools.partial(_of_window, 1),
    p.reduce_window_min_p: functools.partial(_of_window, -1),
}
"""Primitive -> its sides, of shape (kinks, sides): it bends where the largest of them changes."""
