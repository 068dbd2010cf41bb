"""What the library makes of a program: its operations, their rules, and where relevance goes."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from xattr._backward import deeplift, guided, lrp, rewrite
from xattr._backward.patterns import methods
from xattr._backward.rewrite import Carried, OnUncovered, Zeros
from xattr._core import compilation, trees
from xattr._program import jaxpr
from xattr._program.jaxpr import Value
from xattr._recognise.backward import Bias
from xattr._recognise.operation import KINDS, Operation, Recognised
from xattr._recognise.recognise import recognise
from xattr.composites import Composite
from xattr.types import Args, ArrayTree, Function


class ExplainedOperation(NamedTuple):
    """One line of `xattr.explain`."""

    kind: str
    """One of the kinds that `xattr.composites.kind` takes."""
    operations: str
    """Its primitives; of more than four, the first two and the last."""
    shapes: str
    """Dtypes and shapes of what goes in and what comes out."""
    scope: str
    """The named scopes around it, for `composites.named`."""
    source: str
    """The file and line of f that it comes from."""
    flags: str
    """Of a layer: "first", "last", both or neither."""
    covered: tuple[str, ...]
    """The methods that have a rule for it."""
    depth: int
    """How many loops, branches or checkpoints it lies in."""


class Explained(NamedTuple):
    """The operations of a program; prints as a table."""

    operations: tuple[ExplainedOperation, ...]

    def __str__(self) -> str:
        head = ("kind", "operations", "shapes", "rules for", "scope", "source")
        rows = [head, *map(_cells, self.operations)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        lines.insert(1, "-" * len(lines[0]))
        used = sorted({o.kind for o in self.operations})
        notes = [f"{kind}: {KINDS[kind]}" for kind in used]
        return "\n".join([*(line.rstrip() for line in lines), "", *notes])


def _cells(row: ExplainedOperation) -> tuple[str, ...]:
    kind = "  " * row.depth + row.kind + (f" ({row.flags})" if row.flags else "")
    covered = "all" if len(row.covered) == len(_FAMILIES) else ", ".join(row.covered) or "none"
    return kind, row.operations, row.shapes, covered, row.scope, row.source


_FAMILIES = ("guided", "lrp", "deep_lift", "patterns")


def explain(f: Function, x: ArrayTree, *, args: Args = ()) -> Explained:
    """List the operations of f, what each was recognised as, and which methods have a rule for it.

    Print the result for a table. Nothing is computed: f is traced.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays. Only shapes and dtypes count.
        args: further arguments of f.

    Returns:
        An `Explained`, whose `operations` are in the order of the program. Each has its kind,
        primitives, shapes, scope, source line and the methods that cover it.

    Raises:
        TypeError: if a leaf of x is not floating, or `args` is not a tuple.
        ValueError: if f does not return a scalar.

    Source:
        Bach et al. 2015 and the works cited at `xattr.lrp` and `xattr.deep_lift`, for what the
        kinds of operations are.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x: jnp.sum(jax.nn.relu(x @ jnp.array([1.0, -2.0, 3.0]) + 1))
        >>> [operation.kind for operation in xattr.explain(f, jnp.ones(3)).operations]
        ['dense', 'relu', 'sum']
    """
    compilation.check_args(args)
    compilation.check_callable(f, "f")
    x = trees.floating(x, "x")
    forms = jax.eval_shape(lambda: (x, args))  # nothing is computed
    program, _ = jaxpr.trace(compilation.checked(f), *forms, whole=False)
    differences = _covered_equations(recognise(program, "difference"))
    return Explained(tuple(_rows(recognise(program, "relevance"), differences, 0)))


def _rows(recognised: Recognised, differences: set[Any], depth: int) -> list[ExplainedOperation]:
    rows = []
    for operation in recognised.operations:
        if operation.kind == "constant":
            continue
        rows.append(_row(operation, differences, depth))
        for body in operation.bodies:
            rows += _rows(body, differences, depth + 1)
    return rows


def _row(operation: Operation, differences: set[Any], depth: int) -> ExplainedOperation:
    flags = [name for name, flag in (("first", operation.first), ("last", operation.last)) if flag]
    return ExplainedOperation(
        operation.kind,
        operation.primitives,
        operation.shapes,
        operation.scope,
        operation.main.source,
        ", ".join(flags) if operation.is_layer else "",
        _covered(operation, differences),
        depth,
    )


def _covered(operation: Operation, differences: set[Any]) -> tuple[str, ...]:
    free = operation.kind in ("move", "constant", "control")
    composites = {
        "guided": guided.GUIDED,
        "lrp": lrp.DEFAULT,
        "patterns": Composite(methods.BASE, "gradient"),
    }
    names = {n for n, c in composites.items() if free or c.rule_for(operation) is not None}
    if operation.is_layer:
        names.add("patterns")
    if all(e in differences for e in operation.equations):
        names.add("deep_lift")
    return tuple(name for name in _FAMILIES if name in names)


def _covered_equations(recognised: Recognised) -> set[Any]:
    """Return the equations that DeepLIFT covers.

    DeepLIFT groups equations in another way than LRP, whose operations the table lists.
    """
    covered: set[Any] = set()
    for operation in recognised.operations:
        free = operation.kind in ("move", "constant", "control")
        if free or deeplift.RULES.rule_for(operation) is not None:
            covered.update(operation.equations)
        for body in operation.bodies:
            covered |= _covered_equations(body)
    return covered


# Where relevance goes ---------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RelevanceReport:
    """The relevance that arrives at every layer, and what becomes of it; prints as a table."""

    layers: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    """Kind and scope or source of each, in the order of the program."""
    arriving: jax.Array
    """Σₖ Rₖ over the outputs, shape (layers,)."""
    passed_on: jax.Array
    """Σᵢ Rᵢ over the inputs, shape (layers,)."""
    absorbed: jax.Array
    """The difference: what the bias and the stabilizer keep, shape (layers,)."""

    def __str__(self) -> str:
        width = max([len("layer"), *map(len, self.layers)])
        head = f"{'layer':{width}}{'arriving':>14}{'passed on':>14}{'absorbed':>14}"
        columns = zip(self.arriving, self.passed_on, self.absorbed, strict=True)
        lines = [
            f"{name:{width}}" + "".join(f"{float(v):>14.6g}" for v in row)
            for name, row in zip(self.layers, columns, strict=True)
        ]
        return "\n".join([head, "-" * len(head), *lines])


def relevance_report(
    f: Function,
    x: ArrayTree,
    composite: Composite | None = None,
    *,
    bias: Bias = "exclude",
    args: Args = (),
    on_uncovered: OnUncovered = "error",
) -> RelevanceReport:
    """Report for every layer and sum the relevance that arrives, goes on and is absorbed.

    absorbed = Σₖ Rₖ − Σᵢ Rᵢ. It is 0 for a rule that conserves relevance. The bias absorbs its
    share where it is in the denominator; ε and units without contributions absorb the rest.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        composite: which rule goes to which operation, one of `xattr.composites`; None is the ε-rule
            with ε = 1e-6 for every layer.
        bias: "include" adds the bias to the denominators, "exclude" does not.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        on_uncovered: "error", or "gradient" for JAX's own gradient where no rule covers an
            operation.

    Returns:
        A `RelevanceReport`: arrays with one entry for each layer or sum outside of loops and
        checkpoints, in units of f. Print it for a table.

    Raises:
        TypeError: if `composite` is not one of `xattr.composites`, a leaf of x is not floating, or
            `args` is not a tuple.
        ValueError: for a rule for first layers given to another, and if f does not return a scalar.
        UncoveredPrimitiveError: for an operation that no rule covers, unless
            `on_uncovered="gradient"`.

    Source:
        Bach et al. 2015, "On pixel-wise explanations", eq. 2 and 56 to 60.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x: jax.nn.relu(x @ jnp.array([1.0, 1.0]) + 1)
        >>> z_rule = xattr.composites.every_layer(xattr.rules.zero())
        >>> xattr.relevance_report(f, jnp.array([2.0, 1.0]), z_rule, bias="include").absorbed
        Array([1.], dtype=float32)
    """
    compilation.check_args(args)
    x = trees.floating(x, "x")
    chosen = lrp.DEFAULT if composite is None else composite
    compilation.check_callable(f, "f")
    rewrite.check_options(bias, on_uncovered)
    rewrite.check_composite(chosen)
    static = {"composite": chosen, "bias": bias, "on_uncovered": on_uncovered}
    return compilation.compiled(report_kernel, f, **static)(x, args)


def report_kernel(
    f: Function, x: ArrayTree, args: Args, *, composite: Composite, **options: Any
) -> RelevanceReport:
    """Run the program with zeros added around every layer: their gradients give the relevance."""
    recognised, operands, settings = lrp.prepared(f, x, args, composite, **options)
    leaves = jax.tree.leaves(x)
    operations = [s for s in recognised.operations if s.is_affine and s.kind != "move"]
    zeros = {operation.index: _zeros(operation) for operation in operations}
    (score,) = recognised.program.outputs

    inputs = [Carried(leaf, direct=jnp.zeros_like(leaf)) for leaf in leaves]
    rest = [Carried(o) for o in operands[len(leaves) :]]

    def value(zeros: dict[int, Zeros]) -> tuple[jax.Array, list[tuple[list[jax.Array], jax.Array]]]:
        env = rewrite.run_all(recognised, [*inputs, *rest], settings._replace(zeros=zeros))
        around = [([env[v].value for v in s.inputs], env[s.output].value) for s in operations]
        return rewrite.read(env, score).value, around

    gradients, around = jax.grad(value, has_aux=True)(zeros)
    arriving, passed_on = [], []
    for operation, (values, output) in zip(operations, around, strict=True):
        back = gradients[operation.index]
        arriving.append(trees.total([output * back.output.value, back.output.direct]))
        products = [a * g.value for a, g in zip(values, back.inputs, strict=True)]
        passed_on.append(trees.total([*products, *(g.direct for g in back.inputs)]))
    came, went = (jnp.stack(sums) if sums else jnp.zeros(0) for sums in (arriving, passed_on))
    return RelevanceReport(tuple(map(_label, operations)), came, went, came - went)


def _zeros(operation: Operation) -> Zeros:
    def zero(value: Value) -> Carried:
        return Carried(value.full(0), direct=value.full(0))

    return Zeros(tuple(map(zero, operation.inputs)), zero(operation.output))


def _label(operation: Operation) -> str:
    return f"{operation.index} {operation.kind} {operation.scope or operation.main.source}"
