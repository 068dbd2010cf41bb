"""The sides of the kinks of a piecewise linear program, at the ends of parts of a line.

A *kink* is a place in the program where it may bend: a unit of a ReLU, a window of a max-pooling, a
comparison. Its *sides* are the functions that compete there, 0 and x for a ReLU. The program bends
where the largest of them changes. Negated for a minimum, they make every kink one of a maximum.

As long as no earlier kink bends the line, the sides are linear along it, and two points tell all.
The two points lie inside the part, at one and at three quarters, and the values at its ends are
extrapolated. At an end itself a comparison may jump, and would show the value of the other side.

The program runs in float64, so that rounding does not make up kinks or lose them.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr._core import compilation
from xattr._program import jaxpr, running
from xattr._program.jaxpr import Equation, Program, p
from xattr.types import Args, Array, ArrayTree, Function, UncoveredPrimitiveError

LARGEST = 1e300
"""Stands for infinity, of which no differences can be taken."""

REMEDY = (
    "For such a function use xattr.integrate_to_tolerance, or integrated gradients with a fixed "
    "quadrature"
)


class _Term(NamedTuple):
    """A value of the program. Along a piece of the line it is constant (degree 0) or linear (1)."""

    value: Any
    degree: int


class _Record(NamedTuple):
    """What a run of the program appends, in program order."""

    sides: list[Array]
    differs: dict[str, Array]
    """Call with a derivative of its own -> whether that is not the derivative of its values."""
    x64: bool
    """Whether f runs in float64 outside this module."""


def sides_kernel(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree,
    args: Args,
    start: Array,
    end: Array,
    *,
    x64: bool,
) -> tuple[list[Array], dict[str, Array]]:
    """Return, for every operation with kinks, their sides at both ends of parts of the line.

    They are of shape (parts, 2, kinks, sides), and right in parts that no earlier kink bends.
    """
    with jax.enable_x64(x64):
        program, operands = jaxpr.trace(compilation.checked(f), x, args, whole="always")
    line = [(_wide(a), _wide(b)) for a, b in zip(*map(jax.tree.leaves, (baseline, x)), strict=True)]

    def at(alpha: Array) -> tuple[list[Array], dict[str, Array]]:
        terms = [_Term((1 - alpha) * first + alpha * last, 1) for first, last in line]
        terms += [_Term(value, 0) for value in operands[len(line) :]]
        record = _Record([], {}, x64)
        _run(program, terms, record)
        return [jnp.clip(sides, -LARGEST, LARGEST) for sides in record.sides], record.differs

    # Inside the part, since f may jump at its ends.
    quarter = (end - start) / 4
    near, differs = jax.vmap(at)(jnp.concatenate([start + quarter, end - quarter]))
    return [_extrapolated(*jnp.split(sides, 2)) for sides in near], differs


def _extrapolated(first: jax.Array, last: jax.Array) -> jax.Array:
    """Return the values at both ends of parts from those at one and at three quarters."""
    step = (last - first) / 2  # the change over a quarter
    return jnp.stack([first - step, last + step], axis=1)


def _run(program: Program, inputs: list[_Term], record: _Record) -> list[_Term]:
    """Run a program in float64, and append to the record."""
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
            results = _run(equation.bodies[0], terms, record)
            if equation.is_call:
                call = f"{equation.name}, at {equation.source}"
                wrong = _derivative_differs(equation, terms, record.x64)
                record.differs[call] = record.differs.get(call, False) | wrong
        else:
            results = _apply(equation, terms, record.sides)
        env.update(zip(equation.outputs, results, strict=True))
    return [read(atom) for atom in program.outputs]


def _as_written(equation: Equation, terms: list[_Term]) -> list[Any]:
    """Return the operands in the dtypes of the program, which the bodies of branches require."""
    return [
        term.value.astype(atom.dtype) if _is_real(getattr(atom, "dtype", None)) else term.value
        for atom, term in zip(equation.inputs, terms, strict=True)
    ]


def _derivative_differs(equation: Equation, terms: list[_Term], x64: bool) -> jax.Array:
    """Return whether a call's own derivative is not that of its body, near the operands.

    It is not tested at the operands: at a kink, as 0 is for a ReLU, any derivative between those of
    the two sides is right.
    """
    near = [
        _Term(_perturbed(term.value, shift) if term.degree else term.value, term.degree)
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
        # Cotangents that differ, or an error in one result could cancel that in another.
        weights = [_perturbed(jnp.ones_like(r), shift) for shift, r in enumerate(results)]
        return list(pull([w.astype(r.dtype) for w, r in zip(weights, results, strict=True)]))

    with jax.enable_x64(x64):
        own = derivative(functools.partial(running.run, equation))
        true = derivative(functools.partial(running.evaluate, equation.bodies[0]))
    wrong = jnp.array(False)
    for a, b in zip(own, true, strict=True):
        tolerance = float(jnp.finfo(b.dtype).eps) ** 0.5  # type: ignore[no-untyped-call]
        # `~(<=)`, not `>`, so that a derivative that is NaN differs.
        wrong |= ~(jnp.max(jnp.abs(a - b), initial=0) <= tolerance * jnp.max(jnp.abs(b), initial=0))
    return wrong


def _perturbed(value: jax.Array, shift: int) -> jax.Array:
    """Return numbers within a few hundredths of the given ones, each moved differently."""
    counted = lax.iota(jnp.float32, value.size).reshape(value.shape) + shift
    wave = jnp.sin(counted).astype(value.dtype)
    return value * (1 + wave / 32) + wave / 128


def _apply(equation: Equation, terms: list[_Term], sides: list[Array]) -> list[_Term]:
    """Apply one operation in float64; append its sides if it has kinks."""
    operands = [_wide(term.value) for term in terms]
    degree = _degree(equation, [term.degree for term in terms])
    if equation.primitive in _SIDES:
        sides += list(_SIDES[equation.primitive](equation, *operands))
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
    """Return the degree of the result of an operation on values of these degrees."""
    primitive, real = equation.primitive, _is_real(equation.output.dtype)
    if primitive in _SIDES:
        return int(real and primitive is not p.sign_p)  # a sign and a truth value are constant
    product = primitive in _PRODUCTS and sum(degrees) == 1
    quotient = primitive is p.div_p and degrees == [1, 0]
    if real and (primitive in _LINEAR or product or quotient):
        return 1
    raise UncoveredPrimitiveError(
        f"`f` is not piecewise linear in x, as far as is known: {equation.name} of values that "
        f"depend on x, at {equation.source}. {REMEDY}"
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
    padded = lax.pad(sign * a, jnp.asarray(-LARGEST, a.dtype), padding)
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
