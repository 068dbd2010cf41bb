"""The function explained, compiled: arrays it carries are dynamic, the rest is static and weak.

`jax.jit(f)` keys its cache on `f` itself. Used on a caller's function that means a compilation for
every new `functools.partial(model, params)` and, where `f` is a static argument, one copy of its
parameters kept alive for every closure ever passed. Here a callable is split into its arrays, which
become arguments of the compiled program, and a skeleton that only refers weakly to the rest.
"""

import functools
import sys
import types
import weakref
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xattr.types import ArrayTree, Function


class _Weak(weakref.ReferenceType[Any]):
    """A weak reference that compares by identity, so that anything can be a key."""

    __slots__ = ("identity",)

    def __init__(self, value: Any, callback: Callable[[Any], Any] | None = None) -> None:
        super().__init__(value, callback)  # type: ignore[call-arg]
        self.identity = id(value)

    def __hash__(self) -> int:
        return self.identity

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, _Weak) and self() is not None and self() is other()


class _Value(NamedTuple):
    """A static value that cannot be referred to weakly, such as a number or a string."""

    kind: type
    value: Hashable


class _Slot(NamedTuple):
    """The place of a dynamic array."""

    place: int


class _Node(NamedTuple):
    """A callable or a pytree made of parts: how to rebuild it, and from what."""

    rebuild: Callable[..., Any]
    parts: tuple[Any, ...]


def _bind(*parts: Any) -> Any:
    function, names, *values = parts
    split = len(values) - len(names)
    keywords = dict(zip(names, values[split:], strict=True))
    return functools.partial(function, *values[:split], **keywords)


def _split(part: Any, arrays: list[Any]) -> Any:
    """Move the arrays of a callable into the list; return the skeleton that is left."""
    if isinstance(part, (jax.Array, np.ndarray, np.generic)):
        arrays.append(part)
        return _Slot(len(arrays) - 1)
    if isinstance(part, functools.partial):  # also jax.tree_util.Partial
        children = (part.func, tuple(part.keywords), *part.args, *part.keywords.values())
        return _Node(_bind, tuple(_split(child, arrays) for child in children))
    if isinstance(part, types.MethodType):
        children = (part.__func__, part.__self__)
        return _Node(types.MethodType, tuple(_split(child, arrays) for child in children))
    leaves, treedef = jax.tree.flatten(part)
    if not jax.tree_util.treedef_is_leaf(treedef):  # a container, or a module that is a pytree
        return _Node(_unflatten(treedef), tuple(_split(leaf, arrays) for leaf in leaves))
    return _static(part)


class _unflatten:  # noqa: N801 (used like a function; compares by its treedef)
    def __init__(self, treedef: Any) -> None:
        self.treedef = treedef

    def __call__(self, *leaves: Any) -> Any:
        return jax.tree.unflatten(self.treedef, leaves)

    def __hash__(self) -> int:
        return hash(self.treedef)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _unflatten) and self.treedef == other.treedef


def _static(part: Any) -> Any:
    try:
        return _Weak(part)
    except TypeError:
        return _Value(type(part), part)


def _join(skeleton: Any, arrays: list[Any]) -> Any:
    """Rebuild the callable from its skeleton and arrays."""
    if isinstance(skeleton, _Slot):
        return arrays[skeleton.place]
    if isinstance(skeleton, _Node):
        return skeleton.rebuild(*(_join(part, arrays) for part in skeleton.parts))
    return skeleton() if isinstance(skeleton, _Weak) else skeleton.value


def _watch(skeleton: Any, callback: Callable[[Any], Any]) -> Any:
    """Return the skeleton with weak references that call back when their referent goes."""
    if isinstance(skeleton, _Node):
        return skeleton._replace(parts=tuple(_watch(part, callback) for part in skeleton.parts))
    return _Weak(skeleton(), callback) if isinstance(skeleton, _Weak) else skeleton


_COMPILED: dict[tuple[Callable[..., Any], Any], Callable[..., Any]] = {}


def compiled(function: Callable[..., Any], f: Function) -> Callable[..., Any]:
    """Return `function(f, *operands)` under jit, compiled once for each `f` and shapes.

    Arrays inside `f` (in a `functools.partial`, a `jax.tree_util.Partial`, a bound method, or a
    module that is a pytree) are dynamic; everything else is static by identity and held weakly, so
    that the program is forgotten with `f`.
    """
    arrays: list[Any] = []
    skeleton = _split(f, arrays)
    program = _COMPILED.get((function, skeleton))
    if program is None:
        program = _compile(function, skeleton)
    return functools.partial(program, arrays)


def is_lasting(f: Function) -> bool:
    """Tell whether `f` is made of arrays and importable functions: worth compiling once for all.

    A lambda or a local function may be made anew for every call, and would be compiled every time.
    """
    arrays: list[Any] = []
    return _lasting(_split(f, arrays))


def _lasting(skeleton: Any) -> bool:
    if isinstance(skeleton, _Node):
        return all(map(_lasting, skeleton.parts))
    return not isinstance(skeleton, _Weak) or _importable(skeleton())


def _importable(value: Any) -> bool:
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    return getattr(module, getattr(value, "__qualname__", ""), None) is value


def _compile(function: Callable[..., Any], skeleton: Any) -> Callable[..., Any]:
    def forget(_: Any, pop: Callable[..., Any] = _COMPILED.pop) -> None:
        pop(key, None)  # bound early: at exit the module's names may be gone

    watched = _watch(skeleton, forget)
    key = (function, watched)

    @functools.wraps(function)  # the name under which compilations are counted
    def program(arrays: list[Any], *operands: Any) -> Any:
        return function(_join(watched, arrays), *operands)

    del program.__wrapped__  # jit would read the other signature
    _COMPILED[key] = jax.jit(program)
    return _COMPILED[key]


def checked(f: Function) -> Function:
    """Return `f`, with an error at tracing time unless it returns one floating scalar."""

    def scalar_valued(x: ArrayTree, *args: Any) -> jax.Array:
        value = f(x, *args)
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(value)]
        if not isinstance(value, (jax.Array, np.ndarray, np.generic, float)) or shapes != [()]:
            raise ValueError(
                f"`f` must return one scalar for one example, but returned {_describe(value)}: "
                "pick a class, for example f = xattr.targets.logit(model), or jax.vmap over a batch"
            )
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise TypeError(
                f"`f` must return a floating scalar, but returned {_describe(value)}: "
                "return the score itself, not a class or a decision"
            )
        return jnp.asarray(value)

    return scalar_valued


def _describe(value: Any) -> str:
    if hasattr(value, "dtype"):
        return f"{value.dtype}{list(jnp.shape(value))}"
    return f"a {type(value).__name__}"


def check_args(args: Any) -> None:
    """Raise unless the further arguments of `f` are a tuple."""
    if not isinstance(args, tuple):
        raise TypeError(
            f"`args` must be a tuple of further arguments of f, but is a {type(args).__name__}: "
            "for one argument write args=(label,)"
        )


def value_of(f: Function, x: ArrayTree, args: tuple[Any, ...]) -> jax.Array:
    """Return f(x, *args), compiled."""
    value: jax.Array = compiled(function_value, f)(x, args)
    return value


def function_value(f: Function, x: ArrayTree, args: tuple[Any, ...]) -> jax.Array:
    """Return f(x, *args)."""
    value: jax.Array = checked(f)(x, *args)
    return value
