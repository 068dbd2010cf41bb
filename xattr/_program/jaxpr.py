"""The traced program of a function: equations in one list, and what depends on x.

No other module touches `jax.extend`. Calls that only group equations (jit, closed calls) are
opened. A call with a derivative of its own stays whole if it is an activation or needs no rule.
scan, cond, while and checkpoint keep their bodies.

The sets of primitives below say what kinds there are. A new primitive goes into one of them.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from typing import Literal as OneOf

import jax
import jax.extend.core as core
import jax.extend.source_info_util as source_info
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives

from xattr._core import trees
from xattr._program import versions
from xattr.types import Args, ArrayTree, Function

_ADDED_SINCE = frozenset({"stack_p", "unstack_p"})
"""Primitives that the oldest JAX lacks altogether: it does not write them under another name."""


class _Primitives:
    """JAX's primitives by name. One that this JAX lacks equals no other, and is in `missing`."""

    def __init__(self) -> None:
        self.found: set[Any] = set()
        self.missing: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if not name.endswith("_p"):
            raise AttributeError(name)
        primitive = getattr(primitives, name, None) or getattr(lax, name, None)
        if primitive is None:
            if name not in _ADDED_SINCE:
                self.missing.append(name)
            primitive = object()
        else:
            self.found.add(primitive)
        setattr(self, name, primitive)
        return primitive


p = _Primitives()

source_info.register_exclusion(str(Path(__file__).parents[1]))  # the line named is the user's


class Value:
    """A value of the program; compares by identity."""

    __slots__ = ("aval", "dependent", "dtype", "shape")

    def __init__(self, aval: Any, dependent: bool) -> None:
        self.shape: tuple[int, ...] = getattr(aval, "shape", ())
        self.dtype: Any = getattr(aval, "dtype", None)
        self.dependent = dependent
        self.aval = aval

    def full(self, number: float) -> jax.Array:
        """Return an array of this type that is one number everywhere."""
        return jnp.asarray(trees.varying_like(jnp.full(self.shape, number, self.dtype), self.aval))

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * getattr(self.dtype, "itemsize", 1)

    @property
    def floating(self) -> bool:
        """Whether there is a gradient with respect to it."""
        return self.dtype is not None and bool(jnp.issubdtype(self.dtype, jnp.inexact))

    @property
    def complex(self) -> bool:
        """Whether its numbers are complex."""
        return self.dtype is not None and bool(jnp.issubdtype(self.dtype, jnp.complexfloating))

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class Literal:
    """A number written in the program; compares by identity."""

    __slots__ = ("dtype", "value")

    def __init__(self, value: Any, dtype: Any) -> None:
        self.value = value
        self.dtype = dtype

    @property
    def array(self) -> jax.Array:
        """The number as an array of its type in the program."""
        return jnp.asarray(self.value, self.dtype)


class Equation:
    """One operation: a primitive, its operands and results, and where it comes from."""

    __slots__ = (
        *("activation", "bodies", "caller", "first_steps", "inputs", "origin", "outputs"),
        *("params", "primitive", "scope"),
    )

    def __init__(
        self,
        origin: Any,
        inputs: list[Any],
        outputs: list[Value],
        scope: str,
        bodies: list[Any],
        caller: Any = None,
    ) -> None:
        self.origin = origin
        self.caller = caller
        # JAX does not export the primitives that mark a value as varying under shard_map.
        self.primitive: Any = p.copy_p if str(origin.primitive) in _VARYING else origin.primitive
        self.inputs = inputs
        self.outputs = outputs
        self.scope = scope
        self.params: dict[str, Any] = versions.Params(origin.params)
        loop = origin.primitive is p.scan_p
        self.bodies: list[Program] = bodies[-1:] if loop else bodies
        self.first_steps: list[Program] = bodies[:-1] if loop else []
        """The body of a scan at its first steps, where less depends on x than at the others."""
        self.activation = self.is_call and is_activation(bodies[0], inputs, outputs)
        """Whether it is a call of a function of each element."""

    def changed(self, **attributes: Any) -> "Equation":
        """Return a copy with other attributes."""
        other = copy.copy(self)
        for name, value in attributes.items():
            setattr(other, name, value)
        return other

    @property
    def output(self) -> Value:
        """The first, or only, result."""
        return self.outputs[0]

    @property
    def name(self) -> str:
        """The name of the primitive, or of the function a call stands for."""
        named = self.params.get("name") if self.is_call or self.primitive is p.name_p else None
        return str(named or self.origin.primitive)

    @property
    def is_call(self) -> bool:
        """Whether this is a call of a function with one body."""
        return self.primitive in CALLS

    @property
    def source(self) -> str:
        """The file and line that the equation comes from."""
        text = str(source_info.summarize(self.origin.source_info))
        if not text and self.caller is not None:  # within a jitted function of JAX itself
            text = str(source_info.summarize(self.caller.source_info))
        return text.replace("\\", "/").rpartition("/")[2]

    @property
    def dependents(self) -> list[Value]:
        """The operands that depend on x, each once."""
        return [*dict.fromkeys(v for v in self.inputs if isinstance(v, Value) and v.dependent)]

    @property
    def operands(self) -> list[Value]:
        """The operands that are values, each once."""
        return [*dict.fromkeys(v for v in self.inputs if isinstance(v, Value))]


class Program(NamedTuple):
    """A list of equations with its inputs, outputs and constants."""

    inputs: list[Value]
    outputs: list[Any]
    equations: list[Equation]
    constants: dict[Value, Any]


_VARYING = frozenset({"pvary", "pcast"})
"""Names of the primitives that mark a value as varying over axes of a mesh."""
OPENED = frozenset({p.jit_p, p.closed_call_p, p.call_p})
"""Calls that are always opened: an attribution must not depend on which parts of f are jitted."""
OWN_DERIVATIVE = frozenset({p.custom_jvp_call_p, p.custom_vjp_call_p})
CALLS = OPENED | OWN_DERIVATIVE
CONTROL = frozenset({p.scan_p, p.cond_p, p.remat_p})
WEIGHTED = frozenset({p.dot_general_p, p.conv_general_dilated_p})
ADDITIONS = frozenset({p.add_p, p.add_jaxvals_p, p.sub_p})
AFFINE_ELEMENTWISE = ADDITIONS | {p.mul_p, p.div_p, p.neg_p}
COMPARISONS = frozenset({p.eq_p, p.ne_p, p.lt_p, p.le_p, p.gt_p, p.ge_p, p.is_finite_p})
LOGIC = frozenset({p.and_p, p.or_p, p.not_p, p.xor_p})
COPIES = frozenset({p.convert_element_type_p, p.copy_p, p.name_p, p.reduce_precision_p})
SELECTIONS = frozenset({p.max_p, p.min_p, p.clamp_p, p.select_n_p})
UNARY = frozenset(
    {
        *(p.abs_p, p.sign_p, p.exp_p, p.exp2_p, p.expm1_p, p.log_p, p.log1p_p, p.sqrt_p),
        *(p.rsqrt_p, p.cbrt_p, p.square_p, p.integer_pow_p, p.tanh_p, p.logistic_p, p.erf_p),
        *(p.erfc_p, p.erf_inv_p, p.sin_p, p.cos_p, p.tan_p, p.asin_p, p.acos_p, p.atan_p),
        *(p.sinh_p, p.cosh_p, p.asinh_p, p.acosh_p, p.atanh_p, p.lgamma_p, p.digamma_p),
        *(p.floor_p, p.ceil_p, p.round_p),
    }
)
ELEMENTWISE = UNARY | AFFINE_ELEMENTWISE | COMPARISONS | LOGIC | COPIES | SELECTIONS | {p.pow_p}
MOVES = frozenset(
    {
        *(p.reshape_p, p.transpose_p, p.squeeze_p, p.broadcast_in_dim_p, p.slice_p, p.rev_p),
        *(p.dynamic_slice_p, p.gather_p, p.concatenate_p, p.device_put_p),
        *(p.sharding_constraint_p, p.tile_p, p.stack_p),
        *COPIES,
    }
)
SPLITS = frozenset({p.split_p, p.unstack_p})
SPECTRAL = frozenset({p.fft_p, p.real_p, p.imag_p, p.complex_p, p.conj_p})
SUMS = frozenset({p.reduce_sum_p, p.reduce_window_sum_p, p.cumsum_p})
COLLECTIVES = frozenset({p.psum_p, p.all_gather_p, p.all_to_all_p, p.ppermute_p})
UPDATES = frozenset({p.dynamic_update_slice_p, p.scatter_p, p.scatter_add_p})
LARGEST = frozenset({p.reduce_max_p, p.reduce_window_max_p, p.scatter_max_p})
SMALLEST = frozenset({p.reduce_min_p, p.reduce_window_min_p, p.scatter_min_p})
ORDERINGS = frozenset({p.sort_p, p.top_k_p, p.cummax_p, p.cummin_p})
OTHERS = frozenset({p.iota_p, p.argmax_p, p.argmin_p, p.pad_p, p.stop_gradient_p, p.while_p})


Whole: TypeAlias = bool | OneOf["always"]


def trace(
    f: Function, x: ArrayTree, args: Args, *, whole: Whole = True
) -> tuple[Program, list[Any]]:
    """Return the program of f(x, *args) -> one array, and its inputs as a list.

    `whole` keeps calls with a derivative of their own: True keeps those in which nothing needs a
    rule, "always" keeps all.
    """
    leaves, structure = jax.tree.flatten(x)
    others, other_structure = jax.tree.flatten(args)

    def flat(leaves: list[Any], others: list[Any]) -> Any:
        return f(
            jax.tree.unflatten(structure, leaves), *jax.tree.unflatten(other_structure, others)
        )

    closed = jax.make_jaxpr(flat)(leaves, others)
    mask = [True] * len(leaves) + [False] * len(others)
    with versions.reading():
        return open_program(closed, mask, whole), [*leaves, *others]


def open_program(body: Any, mask: Sequence[bool], whole: Whole, scope: str = "") -> Program:
    """Return the equations of a jaxpr in one list, calls opened. `mask`: which inputs are x."""
    jaxpr, _ = _parts(body)
    inputs = [Value(v.aval, bool(m)) for v, m in zip(jaxpr.invars, mask, strict=True)]
    program = _inlined(body, inputs, whole, scope)
    return program._replace(equations=_with_choices_let_through(program))


def _with_choices_let_through(program: Program) -> list[Equation]:
    """Take stopped gradients for copies where x chooses between a value and its stopped copy.

    `jax.vmap` writes a `lax.cond` so: a branch that is not taken gets its operand without a
    gradient.
    """
    stopped = {e.output: e for e in program.equations if e.primitive is p.stop_gradient_p}
    stay = set(stopped) & {v for v in program.outputs if isinstance(v, Value)}
    for equation in program.equations if stopped else []:
        chosen = equation.primitive is p.select_n_p and equation.inputs[0] in equation.dependents
        for value in stopped.keys() & set(equation.operands):
            if not chosen or stopped[value].inputs[0] not in equation.inputs[1:]:
                stay.add(value)
    copied = stopped.keys() - stay
    return [
        each if copied.isdisjoint(each.outputs) else each.changed(primitive=p.copy_p)
        for each in program.equations
    ]


def _read(env: dict[Any, Any], atom: Any) -> Any:
    aval: Any = atom.aval
    return Literal(atom.val, aval.dtype) if isinstance(atom, core.Literal) else env[atom]


def _inlined(body: Any, inputs: list[Any], whole: Whole, scope: str, caller: Any = None) -> Program:
    """Return the program of a jaxpr for given operands, calls opened."""
    jaxpr, known = _parts(body)
    fixed = [Value(v.aval, False) for v in jaxpr.constvars]
    constants = dict(zip(fixed, known, strict=True))
    env: dict[Any, Any] = dict(zip(jaxpr.invars, inputs, strict=True))
    env.update(zip(jaxpr.constvars, fixed, strict=True))
    equations: list[Equation] = []
    for eqn in jaxpr.eqns:
        if p.missing and eqn.primitive not in p.found:  # it may be one of them, renamed
            raise versions.unreadable(f"no primitive {p.missing[0]!r}, but {eqn.primitive}")
        operands = [_read(env, v) for v in eqn.invars]
        mask = [depends(v) for v in operands]
        inner_scope = _joined(scope, str(eqn.source_info.name_stack))
        bodies = _bodies(eqn, mask, inner_scope, whole) if eqn.primitive not in OPENED else []
        if eqn.primitive in OPENED or (
            eqn.primitive in CALLS and not _stays_whole(eqn, bodies[0], operands, whole)
        ):
            inner = _inlined(_body_of(eqn), operands, whole, inner_scope, _named(eqn, caller))
            equations += inner.equations
            constants.update(inner.constants)
            env.update(zip(eqn.outvars, inner.outputs, strict=True))
            continue
        reached = _dependent_outputs(eqn, bodies, mask)
        outputs = [Value(v.aval, m) for v, m in zip(eqn.outvars, reached, strict=True)]
        env.update(zip(eqn.outvars, outputs, strict=True))
        equations.append(Equation(eqn, operands, outputs, inner_scope, bodies, caller))
    return Program(inputs, [_read(env, v) for v in jaxpr.outvars], equations, constants)


def _named(eqn: Any, caller: Any) -> Any:
    """Return the innermost call that comes from a file of the user's."""
    return eqn if source_info.summarize(eqn.source_info) else caller


def _joined(outer: str, inner: str) -> str:
    return "/".join(part for part in (outer, inner) if part)


def _parts(body: Any) -> tuple[Any, Sequence[Any]]:
    """Return a jaxpr and its constants. Before JAX 0.11 a `ClosedJaxpr` holds the two."""
    return getattr(body, "jaxpr", body), getattr(body, "consts", ())


def _body_of(eqn: Any) -> Any:
    params = eqn.params
    return params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]


def _bodies(eqn: Any, mask: list[bool], scope: str, whole: Whole) -> list[Program]:
    """Return the bodies of a call or of control flow, opened; for a scan its first steps, too."""
    if eqn.primitive in CALLS or eqn.primitive is p.remat_p:
        return [open_program(_body_of(eqn), mask, whole, scope)]
    if eqn.primitive is p.cond_p:
        return [open_program(b, mask[1:], whole, scope) for b in eqn.params["branches"]]
    if eqn.primitive is p.scan_p:
        constants, carried = scan_counts(eqn)
        mask, steps = list(mask), []
        while True:  # until what depends on x stays the same from one step to the next
            steps.append(open_program(eqn.params["jaxpr"], mask, whole, scope))
            after = [depends(v) for v in steps[-1].outputs[:carried]]
            before = mask[constants : constants + carried]
            if all(b or not a for a, b in zip(after, before, strict=True)):
                return steps
            mask[constants : constants + carried] = [
                a or b for a, b in zip(after, before, strict=True)
            ]
    return []


def scan_counts(scan: Any) -> tuple[int, int]:
    """Return how many operands of a scan are constants, and how many are carried."""
    params = scan.params
    if "num_consts" in params:  # before JAX 0.11
        return params["num_consts"], params["num_carry"]
    constants, carried, _ = params["ft_in"].unpack()
    return len(constants), len(carried)


def while_body(equation: Equation) -> Program:
    """Return the body of a while loop, opened; nothing in it is taken to depend on x."""
    with versions.reading():
        body = equation.params["body_jaxpr"]
        return open_program(body, [False] * len(body.in_avals), "always", equation.scope)


def depends(atom: Any) -> bool:
    """Tell whether an operand depends on x."""
    return isinstance(atom, Value) and atom.dependent


def _dependent_outputs(eqn: Any, bodies: list[Program], mask: list[bool]) -> list[bool]:
    if eqn.primitive is p.cond_p:
        columns = zip(*(body.outputs for body in bodies), strict=True)
        return [mask[0] or any(map(depends, column)) for column in columns]
    if bodies:
        return [depends(out) for out in bodies[-1].outputs]
    return [any(mask)] * len(eqn.outvars)


def _stays_whole(eqn: Any, body: Program, inputs: list[Any], whole: Whole) -> bool:
    """Tell whether a call with its own derivative is kept: no equation in it needs a rule."""
    if whole == "always":
        return True
    if is_activation(body, inputs, [Value(v.aval, False) for v in eqn.outvars]):
        return True
    return whole and not any(_needs_a_rule(equation) for equation in all_equations(body.equations))


def _needs_a_rule(equation: Equation) -> bool:
    rectifies = equation.primitive in SELECTIONS and bool(equation.dependents)
    weighs = equation.primitive in WEIGHTED and bool(equation.dependents)
    return rectifies or weighs or equation.primitive in CONTROL or equation.primitive is p.while_p


def all_equations(equations: Iterable[Equation]) -> Iterator[Equation]:
    """Yield equations and those of the bodies in them."""
    for equation in equations:
        yield equation
        for body in equation.bodies:
            yield from all_equations(body.equations)


def is_activation(body: Program, inputs: list[Any], outputs: list[Value]) -> bool:
    """Tell whether a body maps one dependent array to one of its shape, each element by itself."""
    data = [*dict.fromkeys(v for v in inputs if depends(v))]
    if len(data) != 1 or len(outputs) != 1 or not data[0].floating:
        return False
    if outputs[0].shape != data[0].shape:
        return False
    equations = [e for e in all_equations(body.equations) if e.dependents]
    elementwise = ELEMENTWISE | CALLS
    nonlinear = any(e.primitive not in AFFINE_ELEMENTWISE | COPIES | CALLS for e in equations)
    return nonlinear and all(e.primitive in elementwise for e in equations)


def pruned(program: Program, *, effects: bool = True) -> Program:
    """Return the program without what its outputs do not need. `effects` keeps printing etc."""
    needed = {v for v in program.outputs if isinstance(v, Value)}
    kept: list[Equation] = []
    for equation in reversed(program.equations):
        if (effects and equation.origin.effects) or not needed.isdisjoint(equation.outputs):
            kept.append(equation)
            needed.update(equation.operands)
    return program._replace(equations=kept[::-1])


def read(env: dict[Any, Any], atom: Any) -> Any:
    """Return the array of a value, or the number of a literal."""
    return atom.value if isinstance(atom, Literal) else env[atom]


def weight_position(equation: Equation) -> int:
    """Return which operand of a product is the one that does not depend on x."""
    return int(depends(equation.inputs[0]))
