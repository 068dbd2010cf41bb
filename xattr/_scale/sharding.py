"""Attributions on the devices of a mesh: examples along one axis, nodes of a path along another.

A path attribution is linear in the weights of its quadrature. Each device therefore runs the method
with its share of the nodes as the quadrature. One sum over the devices completes the attribution.
"""

import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from xattr._core import chunks, compilation, deprecated, trees
from xattr._integrate import kernel
from xattr.types import ArrayTree, Quadrature

Method = Callable[..., ArrayTree]
"""An attribution of one example: `method(*operands, **options) -> pytree`."""


class Plan(NamedTuple):
    """A mesh and the axes of it to use; an axis that is absent or has one device is None."""

    mesh: Any
    batch_axis: str | None
    node_axis: str | None


NODE_AXIS = "node"


@deprecated.renamed(step_axis="node_axis")
def sharded(
    method: Method,
    mesh: Mesh,
    *,
    in_axes: Any = 0,
    batch_axis: str = "batch",
    node_axis: str = NODE_AXIS,
) -> Callable[..., ArrayTree]:
    """Spread an attribution over the devices of a mesh: vmap over examples, psum over nodes.

    A[b] = Σ_d Σ_{k on d} wₖ g_b(αₖ) = method(*operands[b], quadrature=Quadrature(α, w)).

    Device d of the node axis runs the method with its share of the nodes. One all-reduce adds the
    results, in float32 at least. Without a node axis of two devices or more, no device waits for
    another. Any number of examples and of nodes is allowed. If it is not a multiple of the devices,
    the last example is repeated and dropped from the result, the last node repeated with weight 0.

    With a node axis the method must be linear in the weights, as path attributions and their means
    are; a variance is not. Parts of its result that do not depend on the quadrature are not summed.

    Put operands onto the mesh once, with `jax.device_put`, or each call moves them. For a model in
    bfloat16 keep x in float32 and cast inside f,
    `f = lambda x, *args: model(x.astype(jnp.bfloat16), *args)`: a method returns the dtype of x,
    and the devices would otherwise add parts that are rounded to bfloat16.

    With more processes than one (`jax.distributed`) operands are global arrays, or host arrays that
    are equal in all processes. If a process dies, the others wait in the sum until its heartbeats
    are missed (`heartbeat_timeout_seconds` of `jax.distributed.initialize`, 100); then JAX ends
    them, with its number on stderr. If it was the first process, JAX ends them at once.

    Args:
        method: `method(*operands, **options)` attributes one example.
        mesh: the devices. Axes with other names stay automatic or explicit for the caller's use,
            for example "model" for parameters.
        in_axes: as for `jax.vmap`: 0 for an axis of examples, None for what all examples share,
            such as parameters; for each operand, or a pytree prefix of the operands.
        batch_axis: the axis of the mesh that examples are spread over.
        node_axis: the axis of the mesh that nodes are spread over.

    Returns:
        A function of the operands and of keyword options that all examples share. It returns what
        the method returns, with a leading axis of examples. With a node axis its `quadrature` is
        that of the call, else the default of the method, else Gauss–Legendre with 64 nodes. Its
        `chunk_size` is that of one device. It raises `ValueError` if there are no examples,
        `in_axes` do not fit, or the mesh has a node axis and the method takes no `quadrature`.

    Raises:
        ValueError: if the mesh has neither axis, or both are one.
        TypeError: if `method` is not a function, or `mesh` is not a mesh.

    Source:
        `jax.shard_map`; the sum over nodes is that of Sundararajan et al. 2016, "Gradients of
        Counterfactuals", eq. 6.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> mesh = jax.make_mesh((1, 1), ("batch", "node"))
        >>> method = lambda x, w: xattr.integrated_gradients(lambda x: jnp.sum(w * x**2), x)
        >>> attribute = xattr.sharded(method, mesh, in_axes=(0, None))
        >>> attribute(jnp.ones((3, 2)), jnp.array([1.0, 2.0])).round(4)
        Array([[1., 2.],
               [1., 2.],
               [1., 2.]], dtype=float32)
    """
    compilation.check_callable(method, "method")
    plan = _plan(mesh, batch_axis, node_axis)

    def attribute(
        *operands: Any, quadrature: Quadrature | None = None, **options: Any
    ) -> ArrayTree:
        chosen = None if quadrature is None else kernel.quadrature_or_default(quadrature)
        if plan.node_axis is not None:
            chosen = _quadrature_of(method, chosen)
        if plan.node_axis is None and chosen is not None:
            options["quadrature"], chosen = chosen, None
        examples, axes = batched(operands, in_axes)
        own = functools.partial(method, **options)
        program = compilation.compiled(batch_attributions, own, plan=plan, axes=axes)
        return program(_placed(examples, plan, axes), chosen)

    return attribute


def vmapped(method: Method, in_axes: Any = 0) -> Callable[..., ArrayTree]:
    """Return the method under vmap over the examples of a batch, compiled."""

    def attribute(*operands: Any) -> ArrayTree:
        examples, axes = batched(operands, in_axes)
        return compilation.compiled(batch_attributions, method, plan=None, axes=axes)(examples)

    return attribute


def _plan(mesh: Mesh, batch_axis: str, node_axis: str) -> Plan:
    """Return the plan; raise unless the mesh has one of the axes."""
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"`mesh` must be a jax.sharding.Mesh, but is {trees.type_of(mesh)}: "
            'make one with jax.make_mesh((4, 2), ("batch", "node"))'
        )
    if node_axis == NODE_AXIS and {NODE_AXIS, "step"} & {*mesh.axis_names} == {"step"}:
        deprecated.warn('the axis "step" of a mesh is now called "node"')
        node_axis = "step"
    if batch_axis == node_axis:
        raise ValueError("`batch_axis` and `node_axis` must be two axes of the mesh, not one")
    if batch_axis not in mesh.axis_names and node_axis not in mesh.axis_names:
        raise ValueError(
            f"`mesh` has the axes {mesh.axis_names}, neither {batch_axis!r} nor {node_axis!r}: "
            "name the axes to use with `batch_axis` and `node_axis`"
        )
    used = (name if mesh.shape.get(name, 1) > 1 else None for name in (batch_axis, node_axis))
    return Plan(mesh, *used)


def batched(operands: tuple[Any, ...], in_axes: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the operands with the axis of examples in front, and 0 or None for each leaf."""
    prefix = tuple(in_axes) if isinstance(in_axes, (tuple, list)) else (in_axes,) * len(operands)
    try:
        given = _leaves(jax.tree.broadcast(prefix, operands, is_leaf=_is_none))
    except ValueError as error:
        raise ValueError(
            f"`in_axes` must have an entry for each of the {len(operands)} operands, or for parts "
            f"of them, but is {in_axes}: {error}"
        ) from error
    leaves = [
        jnp.moveaxis(jnp.asarray(leaf), axis, 0) if axis and leaf is not None else leaf
        for leaf, axis in zip(_leaves(operands), given, strict=True)
    ]
    axes = tuple(
        None if leaf is None or axis is None else 0
        for leaf, axis in zip(leaves, given, strict=True)
    )
    if count_of(leaves, axes) == 0:
        raise ValueError("the batch is empty: pass operands of at least one example")
    treedef = jax.tree.structure(operands, is_leaf=_is_none)
    return jax.tree.unflatten(treedef, leaves), axes


def count_of(leaves: list[Any], axes: tuple[Any, ...]) -> int:
    """Return the number of examples; raise unless all leaves agree on it."""
    shapes = [jnp.shape(leaf) for leaf, axis in zip(leaves, axes, strict=True) if axis == 0]
    counts = {shape[0] if shape else None for shape in shapes}
    if len(counts) != 1 or None in counts:
        raise ValueError(
            f"`in_axes` marks axes of shapes {shapes}: mark an axis of one length in all that "
            "differs from example to example, and None in what does not"
        )
    return int(shapes[0][0])


def _leaves(tree: Any) -> list[Any]:
    """Return the leaves of a tree; None counts as a leaf."""
    return jax.tree.leaves(tree, is_leaf=_is_none)


def _is_none(value: Any) -> bool:
    return value is None


def _placed(operands: tuple[Any, ...], plan: Plan, axes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Move operands that are elsewhere onto the mesh, and to each device its examples only."""
    if chunks.is_staged() or jax.process_count() > 1:
        return operands  # with several processes, jit accepts host arrays that are equal in all
    leaves, treedef = jax.tree.flatten(operands, is_leaf=_is_none)
    devices = set(plan.mesh.devices.flat)
    even = plan.batch_axis and count_of(leaves, axes) % plan.mesh.shape[plan.batch_axis] == 0

    def placed(leaf: Any, axis: int | None) -> Any:
        if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf, (jax.Array, np.ndarray)):
            return leaf
        if isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices:
            return leaf
        spec = P(plan.batch_axis) if even and axis == 0 else P()
        return put(leaf, NamedSharding(plan.mesh, spec))

    return jax.tree.unflatten(treedef, list(map(placed, leaves, axes)))


def put(leaf: Any, where: Any) -> jax.Array:
    """Move an array. A NumPy array is copied: JAX on CPU would share memory that may change."""
    return jax.device_put(np.array(leaf) if isinstance(leaf, np.ndarray) else leaf, where)


_NO_QUADRATURE = (
    "`method` does not use a `quadrature`, but the mesh has a node axis to spread its nodes over: "
    "pass the option on, lambda x, **options: xattr.integrated_gradients(f, x, **options), or, for "
    "a method without a path, make the mesh without that axis"
)


def _quadrature_of(method: Method, quadrature: Quadrature | None) -> Quadrature:
    """Return the quadrature of the call, else the method's own, else the kernel's default."""
    bound = method.keywords if isinstance(method, functools.partial) else {}
    try:
        parameters = dict(inspect.signature(method).parameters)
    except ValueError:  # a callable without a signature
        parameters = {"quadrature": inspect.Parameter("quadrature", inspect.Parameter.KEYWORD_ONLY)}
    if "quadrature" in parameters:
        bound = {"quadrature": parameters["quadrature"].default, **bound}
    elif not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        raise ValueError(_NO_QUADRATURE)
    own = bound.get("quadrature")
    if quadrature is None and isinstance(own, tuple):  # neither None nor Parameter.empty
        return kernel.quadrature_or_default(Quadrature(*own))
    return kernel.quadrature_or_default(None) if quadrature is None else quadrature


def _mapped(
    method: Method, axes: tuple[Any, ...], operands: tuple[Any, ...], **options: Any
) -> ArrayTree:
    """Return the method under vmap over the examples of a batch."""
    leaves, treedef = jax.tree.flatten(operands, is_leaf=_is_none)

    def one(leaves: list[Any]) -> ArrayTree:
        return method(*jax.tree.unflatten(treedef, leaves), **options)

    return jax.vmap(one, in_axes=(list(axes),))(leaves)


def batch_attributions(
    method: Method,
    operands: tuple[Any, ...],
    quadrature: Quadrature | None = None,
    *,
    plan: Plan | None,
    axes: tuple[Any, ...],
) -> ArrayTree:
    """Return the attributions of a batch, each device of the plan computing its share."""
    if plan is None or (plan.batch_axis is None and plan.node_axis is None):
        return _mapped(method, axes, operands)
    plan = plan._replace(mesh=_in_context(plan))
    leaves, treedef = jax.tree.flatten(operands, is_leaf=_is_none)
    count = count_of(leaves, axes)
    if plan.batch_axis is not None:
        extra = -count % plan.mesh.shape[plan.batch_axis]
        leaves = [
            repeat_last(leaf, extra) if axis == 0 else leaf
            for leaf, axis in zip(leaves, axes, strict=True)
        ]
    arrays: list[Any] = []
    skeleton = compilation.split(method, arrays)  # shard_map must not close over arrays

    def on_device(arrays: list[Any], leaves: list[Any], quadrature: Quadrature | None) -> ArrayTree:
        own = compilation.join(skeleton, arrays)
        operands = jax.tree.unflatten(treedef, leaves)
        if quadrature is None or plan.node_axis is None:
            return _mapped(own, axes, operands)
        depends = _depends(own, axes, operands, quadrature)
        result = _mapped(own, axes, operands, quadrature=quadrature)
        return _sum(result, depends, plan.node_axis)

    specs = (
        [P()] * len(arrays),
        [P() if axis is None else P(plan.batch_axis) for axis in axes],
        P(plan.node_axis),
    )
    result = jax.shard_map(
        on_device,
        mesh=plan.mesh,
        in_specs=specs,
        out_specs=P(plan.batch_axis),
        axis_names=_names(plan),
        # The check refuses a loop in f that starts from a constant: the constant is replicated,
        # but what the loop carries later varies over the devices.
        check_vma=False,
    )(*_laid_out((arrays, leaves, _padded(quadrature, plan)), specs, plan))
    if jax.tree.leaves(result)[0].shape[0] == count:
        return result
    replicated = _laid_out(result, jax.tree.map(lambda _: P(), result), plan)
    return jax.tree.map(lambda leaf: leaf[:count], replicated)


def _in_context(plan: Plan) -> Any:
    """Return the mesh, or the caller's view of it inside a shard_map over other axes."""
    context = jax.sharding.get_abstract_mesh()
    if not context.manual_axes:
        return plan.mesh
    if context.shape == plan.mesh.shape and not _names(plan) & set(context.manual_axes):
        return context
    raise ValueError(
        f"`mesh`, {dict(plan.mesh.shape)}, cannot be used under a pmap, or a shard_map over "
        f"{context.manual_axes}, which uses its devices already: use jax.vmap(method) there, or "
        "this function outside"
    )


def _names(plan: Plan) -> set[str]:
    return {name for name in (plan.batch_axis, plan.node_axis) if name is not None}


def _laid_out(tree: ArrayTree, specs: Any, plan: Plan) -> ArrayTree:
    """Reshard arrays over the explicit axes of the plan; JAX does so for automatic axes itself."""
    kinds = dict(zip(plan.mesh.axis_names, plan.mesh.axis_types, strict=True))
    explicit = {name for name in _names(plan) if kinds[name] is AxisType.Explicit}
    if not explicit:
        return tree

    def laid_out(spec: Any, leaf: jax.Array) -> jax.Array:
        others = [_without(names, explicit) for names in jax.typeof(leaf).sharding.spec]
        ours = [name if name in explicit else None for name in spec]
        merged = [own or other for own, other in itertools.zip_longest(ours, others)]
        return jax.sharding.reshard(leaf, NamedSharding(plan.mesh, P(*merged)))

    return jax.tree.map(
        lambda spec, part: jax.tree.map(functools.partial(laid_out, spec), part),
        specs,
        tree,
        is_leaf=_is_none,
    )


def _without(names: Any, dropped: set[str]) -> Any:
    """Return one entry of a PartitionSpec without certain axes."""
    listed = names if isinstance(names, tuple) else (names,)
    return tuple(name for name in listed if name not in dropped and name is not None) or None


def repeat_last(leaf: Any, extra: int) -> Any:
    """Return the leaf padded with its last item: any other value might not be valid for f."""
    if not extra:
        return leaf
    if isinstance(leaf, np.ndarray):
        return np.concatenate([leaf, np.repeat(leaf[-1:], extra, axis=0)])
    return jnp.concatenate([leaf, jnp.broadcast_to(leaf[-1:], (extra, *leaf.shape[1:]))])


def _padded(quadrature: Quadrature | None, plan: Plan) -> Quadrature | None:
    """Pad the nodes to a multiple of the devices, with nodes of weight 0."""
    if quadrature is None or plan.node_axis is None:
        return None
    extra = -quadrature.nodes.shape[0] % plan.mesh.shape[plan.node_axis]
    weights = jnp.asarray(quadrature.weights)
    return Quadrature(
        repeat_last(jnp.asarray(quadrature.nodes), extra),
        jnp.concatenate([weights, jnp.zeros(extra, weights.dtype)]),
    )


def _depends(
    method: Method, axes: tuple[Any, ...], operands: tuple[Any, ...], quadrature: Quadrature
) -> ArrayTree:
    """Tell for every leaf of the method's result whether it depends on the weights.

    vmap over the weights tells: what depends on them is batched. Nothing is computed.
    """
    found = []

    @jax.custom_batching.custom_vmap
    def observed(tree: ArrayTree) -> ArrayTree:
        return tree

    @observed.def_vmap
    def _(size: int, batched: Any, tree: ArrayTree) -> tuple[ArrayTree, Any]:
        found.append(batched[0])
        return tree, batched[0]

    def weighted(weights: jax.Array) -> ArrayTree:
        reweighted = Quadrature(quadrature.nodes, weights)
        return observed(_mapped(method, axes, operands, quadrature=reweighted))

    try:
        jax.eval_shape(jax.vmap(weighted), quadrature.weights[None])
    except TypeError as error:
        if "unexpected keyword argument 'quadrature'" not in str(error):
            raise
        raise ValueError(_NO_QUADRATURE) from error
    if not any(jax.tree.leaves(found)):
        raise ValueError(_NO_QUADRATURE)
    return found[0]


def _sum(result: ArrayTree, depends: ArrayTree, axis: str) -> ArrayTree:
    """Sum over the devices what depends on the nodes.

    All is summed in one dtype, since XLA then makes it one all-reduce.
    """
    leaves, flags = jax.tree.leaves(result), jax.tree.leaves(depends)
    wide = trees.widest([leaf for leaf, flag in zip(leaves, flags, strict=True) if flag])

    def summed(leaf: jax.Array, dependent: bool) -> jax.Array:
        return lax.psum(leaf.astype(wide), axis).astype(leaf.dtype) if dependent else leaf

    return jax.tree.map(summed, result, depends)
