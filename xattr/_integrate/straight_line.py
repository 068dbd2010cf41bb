"""Integrated gradients; the affine layers at the start of f are moved out of the sum over nodes.

With f = G ∘ L and L affine, a straight line stays straight under L, and

    (x − x') ⊙ Σₖ wₖ ∇f(γₖ) = (x − x') ⊙ Lᵀ Σₖ wₖ ∇G((1 − αₖ) L x' + αₖ L x).

L is the longest affine prefix of the traced program: all values that are affine functions of x, on
any number of branches, up to the operations that are not affine. Lᵀ is JAX's transpose of L. This
is done where L has a matrix product or a convolution. L then runs once for each end of the line and
once backward, not once for each node, and no gradient at a node has the size of x.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xattr import paths
from xattr._core import chunks, compilation, completeness, trees
from xattr._cpu import replace
from xattr._integrate import kernel
from xattr._program import jaxpr, running, versions, workload
from xattr._program.jaxpr import Equation, Program, Value, p
from xattr.types import (
    Args,
    Array,
    ArrayTree,
    Function,
    Progress,
    Quadrature,
    UnreadableProgramError,
)


def integrated_gradients(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    quadrature: Quadrature | None = None,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
    warn_above: float | None = completeness.WARN_ABOVE,
) -> ArrayTree:
    """Attribute f(x) − f(baseline) to the features of x, along the straight line.

    Aᵢ = (xᵢ − x'ᵢ) ∫₀¹ ∂ᵢf(x' + α (x − x')) dα, with x' the baseline.

    The attributions sum to f(x) − f(x') up to the error of the quadrature. A feature equal to its
    baseline gets exactly 0.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        baseline: x', a pytree like x. None is zeros.
        quadrature: nodes and weights on [0, 1]. None is Gauss–Legendre with 64 nodes.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many gradients to take together; memory is that of one chunk. None chooses,
            see `xattr.integrate`.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does. Not used inside a trace.
        warn_above: outside a trace, give an `xattr.IncompleteWarning` if the sum misses more than
            this share of f(x) − f(x'). That costs two evaluations of f and, at the first call, a
            compilation of f. None does not check. Inside a trace, use `xattr.completeness_gap`.

    Returns:
        A pytree like x, in units of f.

    Raises:
        ValueError: if the baseline is not like x, or the quadrature is empty, not sorted, outside
            [0, 1] or of unequal lengths or, outside a trace, if x or the baseline is not finite.
        TypeError: if a leaf of x is not floating, or `args` is not a tuple.

    Source:
        Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", eq. 1;
        Sundararajan et al. 2016, "Gradients of Counterfactuals", eq. 5.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x: 1 - jax.nn.relu(1 - x)  # saturated at 2, where its gradient is 0
        >>> xattr.integrated_gradients(f, jnp.array(2.0), quadrature=xattr.quadrature.midpoint(8))
        Array(1., dtype=float32)
    """
    x = trees.floating(x, "x")
    baseline = trees.baseline_like(baseline, x)
    completeness.check_option(warn_above)
    result = _line_integral(
        f, baseline, x, quadrature, args=args, chunk_size=chunk_size, progress=progress
    )
    return completeness.checked(result, f, lambda: (x, baseline), args, warn_above)


def aumann_shapley(
    f: Function,
    x: ArrayTree,
    *,
    quadrature: Quadrature | None = None,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
    warn_above: float | None = completeness.WARN_ABOVE,
) -> ArrayTree:
    """Share the cost f(x) − f(0) among the quantities x, by Aumann–Shapley pricing.

    Aᵢ = xᵢ ∫₀¹ ∂ᵢf(α x) dα, which is integrated gradients from zero. The Aumann–Shapley *prices*
    are costs per unit, `attributions / x`.

    Args:
        f: the cost, `f(x, *args) -> scalar`, for one example.
        x: the quantities, a pytree of floating arrays.
        quadrature: nodes and weights on [0, 1]. None is Gauss–Legendre with 64 nodes.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many gradients to take together; memory is that of one chunk. None chooses,
            see `xattr.integrate`.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does. Not used inside a trace.
        warn_above: the gap to warn of, as a share of f(x) − f(0). None does not check, see
            `xattr.integrated_gradients`.

    Returns:
        A pytree like x, in units of f.

    Raises:
        ValueError: if the quadrature is empty, not sorted, outside [0, 1] or of unequal lengths or,
            outside a trace, if x is not finite.
        TypeError: if a leaf of x is not floating, or `args` is not a tuple.

    Source:
        Aumann & Shapley 1974; Sundararajan et al. 2016, "Gradients of Counterfactuals", §2.4.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> xattr.aumann_shapley(lambda x: x[0] * x[1] ** 2, jnp.ones(2)).round(4)
        Array([0.3333, 0.6667], dtype=float32)
    """
    return integrated_gradients(
        f,
        x,
        quadrature=quadrature,
        args=args,
        chunk_size=chunk_size,
        progress=progress,
        warn_above=warn_above,
    )


def _line_integral(
    f: Function,
    baseline: ArrayTree,
    x: ArrayTree,
    quadrature: Quadrature | None,
    **options: Any,
) -> ArrayTree:
    """Return `xattr.path_integral` along the straight line, with the affine prefix of f hoisted."""
    compilation.check_args(options["args"])
    nodes = kernel.quadrature_or_default(quadrature)
    try:
        result = _hoisted_integral(f, baseline, x, nodes, **options)
    except UnreadableProgramError as error:
        versions.step_aside(error)
        result = None
    if result is not None:
        return result
    path = paths.straight_line(baseline=baseline, x=x)
    return kernel.path_integral(f, path, quadrature=quadrature, **options, warn_above=None)


def _hoisted_integral(
    f: Function,
    baseline: ArrayTree,
    x: ArrayTree,
    quadrature: Quadrature,
    *,
    args: Args,
    chunk_size: int | None,
    progress: Progress | None,
) -> ArrayTree | None:
    """Return the integral, or None if nothing is worth hoisting."""
    ends = compilation.compiled(prefix_kernel, f)(baseline, x, args)
    if ends is None:
        return None
    slopes = compilation.compiled(path_kernel, f)
    chunk_size = workload.chunk_size(chunk_size, f, x, args)
    count = quadrature.nodes.shape[0]
    slope = kernel.sum_of_chunks(
        lambda nodes: slopes(x, *ends, nodes, args),
        functools.partial(kernel.nodes_of, quadrature),
        count,
        chunk_size,
        progress,
    )
    result = compilation.compiled(transposed_kernel, f)(slope, baseline, x, args)
    if trees.has_nonfinite(result):
        path = paths.straight_line(baseline=baseline, x=x)
        kernel.check_finite(kernel.sampled(path, quadrature), count, chunk_size)
    return result


def prefix_kernel(
    f: Function, baseline: ArrayTree, x: ArrayTree, args: Args
) -> tuple[ArrayTree, ArrayTree] | None:
    """Return L(baseline) and L(x), or None if nothing is worth hoisting."""
    split = split_program(f, x, args)
    return None if split is None else (split.prefix(baseline), split.prefix(x))


def path_kernel(
    f: Function,
    x: ArrayTree,
    start: ArrayTree,
    end: ArrayTree,
    quadrature: Quadrature,
    args: Args,
) -> ArrayTree:
    """Return Σₖ wₖ ∇G at the nodes between L(baseline) and L(x), in float32 at least.

    Nodes and weights have two axes: the chunks, which run one after the other, and the nodes of a
    chunk. Of x only the shapes are used. It has the name of `kernel.path_kernel`, in whose place it
    is compiled, so that compilations of either are counted together.
    """
    split = split_program(f, _varying_with(x, quadrature.nodes), args)
    assert split is not None  # or prefix_kernel would have returned None
    gradient = jax.grad(split.rest)
    line = paths.straight_line(baseline=start, x=end)

    def point(node: Array) -> ArrayTree:
        # A mask may put -inf at both ends. The line would be NaN there: -inf times a node of 0.
        still = [jnp.isinf(a) & (a == b) for a, b in zip(start, end, strict=True)]
        return jax.tree.map(jnp.where, still, list(start), line(node))

    def chunk_sum(quadrature: Quadrature) -> ArrayTree:
        gradients = jax.vmap(lambda node: gradient(point(node)))(quadrature.nodes)
        return kernel.weighted_sum(quadrature.weights, trees.widen(gradients))

    return chunks.total(chunk_sum, quadrature)


def transposed_kernel(
    f: Function, slope: ArrayTree, baseline: ArrayTree, x: ArrayTree, args: Args
) -> ArrayTree:
    """Return (x − baseline) ⊙ Lᵀ slope, in the dtypes of x."""
    like_slope = _varying_with(x, *jax.tree.leaves(slope))
    split = split_program(f, like_slope, args)
    assert split is not None
    values, back = jax.vjp(split.prefix, trees.widen(like_slope))
    (gradients,) = back(trees.cast_like(slope, values))
    change = jax.tree.map(jnp.subtract, trees.widen(x), trees.widen(baseline))
    return trees.cast_like(trees.product(change, gradients), x)


def _varying_with(x: ArrayTree, *others: Array) -> ArrayTree:
    """Return x, typed as varying over the mesh axes of the others too.

    Under shard_map a program is traced for values that vary over certain axes of the mesh. The
    program that runs at the nodes must be traced for the axes of the nodes, too.
    """
    for other in others:
        mark = 0 * jnp.sum(other)  # 0, of the type of what x and the other make together
        x = jax.tree.map(lambda leaf, mark=mark: leaf + mark.astype(leaf.dtype), x)
    return x


class Split(NamedTuple):
    """A program in two parts: `before` computes L(x) and `after` computes f from it."""

    before: Program
    after: Program
    others: list[Any]
    """The inputs that are not x."""

    def prefix(self, x: ArrayTree) -> list[jax.Array]:
        """Return L(x), computed in float32 at least."""

        def run(equation: Equation, operands: Sequence[Any]) -> list[Any]:
            if not equation.dependents:
                return running.run(equation, operands)
            return running.run_in(np.float32, equation, operands)

        return running.evaluate(self.before, [*jax.tree.leaves(x), *self.others], run)

    def rest(self, values: list[jax.Array]) -> jax.Array:
        """Return G of the values, in operations whose gradients are fast on CPU."""
        values = [trees.cast(v, form) for v, form in zip(values, self.before.outputs, strict=True)]
        (score,) = replace.evaluate(self.after, [*values, *self.others])
        return jnp.asarray(score)


def split_program(f: Function, x: ArrayTree, args: Args) -> Split | None:
    """Split the traced program of f after its affine prefix.

    Return None if the prefix has no matrix product or convolution: then there is little to save.
    """
    program, operands = jaxpr.trace(compilation.staged(f), x, args, whole="always")
    program = jaxpr.pruned(program)
    count = len(jax.tree.leaves(x))
    affine = set(program.inputs[:count])
    for equation in program.equations:
        if equation.dependents and affine.issuperset(equation.dependents) and _is_affine(equation):
            affine.update(equation.outputs)
    # The cut: affine values that something else takes, or that are f itself.
    taken = [v for v in program.outputs if v in affine]
    for equation in program.equations:
        if not equation.outputs or not affine.issuperset(equation.outputs):
            taken += [v for v in equation.operands if v in affine]
    cut = [*dict.fromkeys(taken)]
    before = jaxpr.pruned(program._replace(outputs=cut), effects=False)
    if not any(e.primitive in jaxpr.WEIGHTED and e.dependents for e in before.equations):
        return None
    others = program.inputs[count:]
    made = {v for e in before.equations if e.dependents for v in e.outputs}
    rest = [e for e in program.equations if made.isdisjoint(e.outputs)]
    after = jaxpr.pruned(Program([*cut, *others], program.outputs, rest, program.constants))
    return Split(before, after, operands[count:])


_LINEAR = frozenset(
    {
        *(p.neg_p, p.reshape_p, p.transpose_p, p.squeeze_p, p.broadcast_in_dim_p, p.slice_p),
        *(p.rev_p, p.concatenate_p, p.pad_p, p.sharding_constraint_p, p.copy_p, p.name_p),
        *(p.convert_element_type_p, p.tile_p, p.stack_p),
        *(jaxpr.ADDITIONS | jaxpr.SPLITS | jaxpr.SUMS),
    }
)
"""Primitives that are linear in all their operands together."""

_LINEAR_IN_FIRST = frozenset({p.div_p, p.gather_p, p.dynamic_slice_p})

_LINEAR_IN_ONE = frozenset({p.mul_p, *jaxpr.WEIGHTED})


def _is_affine(equation: Equation) -> bool:
    """Tell whether an equation is affine in those of its operands that depend on x.

    Only real numbers of 16 bits and more count. A cast to fewer bits is quantization, whose steps
    are part of f.
    """
    values = (*equation.outputs, *equation.dependents)
    if not all(jnp.issubdtype(v.dtype, jnp.floating) and v.dtype.itemsize > 1 for v in values):
        return False
    dependent = [isinstance(v, Value) and v.dependent for v in equation.inputs]
    if equation.primitive in _LINEAR_IN_ONE:
        return sum(dependent) == 1
    if equation.primitive in _LINEAR_IN_FIRST:
        return not any(dependent[1:])
    if equation.primitive is p.select_n_p:
        return not dependent[0]
    return equation.primitive in _LINEAR
