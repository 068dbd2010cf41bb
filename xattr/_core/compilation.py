"""Compiled programs of f: its arrays become jit arguments; all else is static, weakly referenced.

`jax.jit` keys its cache on `f` itself. It would recompile for every new
`functools.partial(model, params)`, and it would keep alive the parameters of every closure that was
ever a static argument. `split` therefore takes a callable apart. Its arrays become arguments of the
compiled program. What is left, the skeleton, is the key of the cache; it holds functions and
objects by weak references where Python allows them.

As under `jax.jit`, what `f` reads from elsewhere (a global, an attribute, a module that it closes
over) is read when `f` is first traced. Pass what changes through `args`.
"""

import dataclasses
import functools
import sys
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xattr._core import caller, trees
from xattr.types import Args, ArrayTree, Function

_MAX_PROGRAMS = 1024
"""Programs kept. A program goes with its callable, unless that allows no weak reference."""

_LEAF: Any = jax.tree.structure(0)

_PLAIN = (bool, int, float, complex, str, bytes, slice, range, np.generic, np.dtype)


class _Weak(weakref.ReferenceType[Any]):
    """A weak reference that compares by identity, so that any object can be part of a key."""

    __slots__ = ("identity",)

    def __init__(self, value: Any, callback: Callable[[Any], Any] | None = None) -> None:
        super().__init__(value, callback)  # type: ignore[call-arg]
        self.identity = id(value)

    def __hash__(self) -> int:
        return self.identity

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        # `type(self)`, not `_Weak`: at interpreter exit the module's names may be gone.
        return type(other) is type(self) and self() is not None and self() is other()


class _Strong:
    """A reference to an object that allows no weak one; compares by identity."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.value is other.value


class _Plain:
    """A number, a string or the like. It compares by type and `repr`: 0.0 differs from -0.0."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.key = (type(value), repr(value))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.key == other.key


class Bound:
    """Base of callables that are made of a function f and named options.

    A subclass is a dataclass with `frozen=True, eq=False`. Its fields are the parts. `split` takes
    them apart, so that arrays inside f stay jit arguments.

    Two of one class are equal if their parts are: functions and arrays by identity, numbers and
    strings by value. A caller's `jax.jit(method, static_argnums=0)` therefore does not recompile
    for every new `xattr.at_layer(f, "name")` or `xattr.with_rules(f, composite)`.
    """

    @property
    def _key(self) -> tuple[Any, ...]:
        arrays: list[Any] = []
        return split(self, arrays), tuple(map(id, arrays))  # an array has no hash

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bound) and self._key == other._key


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Named(Bound):
    """The function `(*operands) -> function(*operands, **parts)`.

    It is written as the call that makes it: that of a function without the leading underscore.
    """

    function: Callable[..., Any]
    parts: dict[str, Any]

    def __call__(self, *operands: Any) -> Any:
        return self.function(*operands, **self.parts)

    def __repr__(self) -> str:
        parts = (f"{name}={trees.brief(part)}" for name, part in self.parts.items())
        return f"{self.function.__name__.removeprefix('_')}({', '.join(parts)})"


class _Unflatten:
    """The function from leaves to the pytree of a given structure."""

    def __init__(self, treedef: Any) -> None:
        self.treedef = treedef

    def __call__(self, *leaves: Any) -> Any:
        return jax.tree.unflatten(self.treedef, leaves)

    def __hash__(self) -> int:
        return hash(self.treedef)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and bool(self.treedef == other.treedef)


class _Slot(NamedTuple):
    """Stands for an array: its place in the list of arrays."""

    place: int


class _Node(NamedTuple):
    """A callable or a pytree made of parts: `rebuild(*parts)` gives it back."""

    rebuild: Callable[..., Any]
    parts: tuple[Any, ...]


def _bind(*parts: Any) -> Any:
    """Rebuild a partial from its function, the names of its keywords and all its values."""
    function, names, *values = parts
    split = len(values) - len(names)
    keywords = dict(zip(names, values[split:], strict=True))
    return functools.partial(function, *values[:split], **keywords)


def split(part: Any, arrays: list[Any]) -> Any:
    """Append the arrays of a callable to the list; return the skeleton that is left."""
    if isinstance(part, (jax.Array, np.ndarray)):
        arrays.append(part)
        return _Slot(len(arrays) - 1)
    if isinstance(part, _PLAIN):
        return _Plain(part)
    if isinstance(part, Bound):
        children = tuple(getattr(part, field.name) for field in dataclasses.fields(part))  # type: ignore[arg-type]
        return _Node(type(part), tuple(split(child, arrays) for child in children))
    if type(part) in (functools.partial, jax.tree_util.Partial):
        children = (part.func, tuple(part.keywords), *part.args, *part.keywords.values())
        return _Node(_bind, tuple(split(child, arrays) for child in children))
    if isinstance(part, types.MethodType):
        children = (part.__func__, part.__self__)
        return _Node(types.MethodType, tuple(split(child, arrays) for child in children))
    leaves, treedef = jax.tree.flatten(part)
    if treedef != _LEAF:  # a container, or a module that is registered as a pytree
        return _Node(_Unflatten(treedef), tuple(split(leaf, arrays) for leaf in leaves))
    try:
        return _Weak(part)
    except TypeError:
        return _Strong(part)


def join(skeleton: Any, arrays: list[Any]) -> Any:
    """Rebuild a callable from its skeleton and its arrays."""
    if isinstance(skeleton, _Slot):
        return arrays[skeleton.place]
    if isinstance(skeleton, _Node):
        return skeleton.rebuild(*(join(part, arrays) for part in skeleton.parts))
    return skeleton() if isinstance(skeleton, _Weak) else skeleton.value


def _watch(skeleton: Any, callback: Callable[[Any], Any]) -> Any:
    """Return the skeleton with weak references that call back when their object is deleted."""
    if isinstance(skeleton, _Node):
        return skeleton._replace(parts=tuple(_watch(part, callback) for part in skeleton.parts))
    return _Weak(skeleton(), callback) if isinstance(skeleton, _Weak) else skeleton


_COMPILED: OrderedDict[tuple[Callable[..., Any], Any], Callable[..., Any]] = OrderedDict()


def _f_and_options(f: Any, names: tuple[str, ...], *values: Any) -> tuple[Any, dict[str, Any]]:
    return f, dict(zip(names, values, strict=True))


def compiled(function: Callable[..., Any], f: Function, **static: Any) -> functools.partial[Any]:
    """Return `function(f, *operands, **static)` under jit, as a function of the operands.

    It is compiled once for each f, static options, and shapes. Arrays inside f and inside the
    options (in a `functools.partial`, a `jax.tree_util.Partial`, a bound method or a pytree) become
    arguments of the program. Functions and other objects are static by identity. The program is
    dropped when one of them is deleted.
    """
    check_callable(f, "f")
    arrays: list[Any] = []
    parts = (f, tuple(static), *static.values())
    skeleton = _Node(_f_and_options, tuple(split(part, arrays) for part in parts))
    return functools.partial(_program(function, skeleton), arrays)


def shapes(function: Callable[..., Any], f: Function, *operands: Any) -> Any:
    """Return the shapes of `function(f, *operands)`; it is traced once for each f and shapes."""
    program = compiled(function, f)
    jitted: Any = program.func
    return jitted.eval_shape(*program.args, *operands)


def compiled_if_library(function: Callable[..., Any], f: Function) -> Callable[..., Any]:
    """Return `compiled(function, f)` if f is this library's, else `function(f, ...)` uncompiled.

    A caller's lambda may be new at every call, and would recompile each time. It may also read what
    changes between calls.
    """
    return compiled(function, f) if is_library_callable(f) else functools.partial(function, f)


def is_library_callable(f: Function) -> bool:
    """Tell whether a callable is made only of arrays and of functions of this library or JAX."""
    return all(_is_ours(part) for part in _static(split(f, [])))


def _static(skeleton: Any) -> Iterator[Any]:
    """Yield the functions and objects that a skeleton refers to."""
    if isinstance(skeleton, _Node):
        for part in skeleton.parts:
            yield from _static(part)
    elif isinstance(skeleton, (_Weak, _Strong)):
        yield skeleton() if isinstance(skeleton, _Weak) else skeleton.value


def _is_ours(value: Any) -> bool:
    # "<" as in "<lambda>" and "<locals>": a closure may read what changes.
    package = (getattr(value, "__module__", None) or "").partition(".")[0]
    return package in ("xattr", "jax") and "<" not in getattr(value, "__qualname__", "<")


def _program(function: Callable[..., Any], skeleton: Any) -> Callable[..., Any]:
    program = _COMPILED.get((function, skeleton))
    if program is not None:
        return program  # without `move_to_end`: another thread may have dropped it meanwhile

    def forget(_: Any, at_exit: Callable[[], bool] = sys.is_finalizing) -> None:
        # At exit the names are gone that this line and the comparison of keys need.
        if not at_exit():
            _COMPILED.pop(key, None)

    watched = _watch(skeleton, forget)
    key = (function, watched)

    @functools.wraps(function)  # compilations are counted by its name
    def joined(arrays: list[Any], *operands: Any) -> Any:
        arrays, operands = trees.with_same_varying_axes((arrays, operands))
        f, static = join(watched, arrays)
        return function(f, *operands, **static)

    del joined.__wrapped__  # or jit would read the signature of `function`
    program = _COMPILED.setdefault(key, jax.jit(joined))  # another thread may have been faster
    while len(_COMPILED) > _MAX_PROGRAMS:
        _COMPILED.popitem(last=False)
    return program


def checked(f: Function) -> Function:
    """Return f with a check, at tracing time, that it returns one floating scalar.

    Every call runs a copy of f, see `run_copy`.
    """

    def scalar_valued(x: ArrayTree, *args: Any) -> jax.Array:
        value = scalar(run_copy(f, x, *args))
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise TypeError(
                f"`f` must return a floating scalar, but returned {_describe(value)}: "
                "return the score itself, not a class or a decision"
            )
        return value

    return scalar_valued


def scalar(value: Any) -> jax.Array:
    """Return what f has returned as an array; raise unless it is one scalar."""
    if not isinstance(value, (jax.Array, np.ndarray, np.generic, float, int)) or np.shape(value):
        raise ValueError(
            f"`f` must return one scalar for one example, but returned {_describe(value)}: "
            "pick a class, for example f = xattr.targets.logit(model), or jax.vmap over a batch"
        )
    return jnp.asarray(value)


def run_copy(f: Function, *operands: Any) -> Any:
    """Return f(*operands) of a copy of f, rebuilt from its arrays.

    A module that counts its calls (for the random numbers of a flax.nnx Dropout or RNN) then
    changes the copy. The original may belong to another trace, in which it must not be changed.
    """
    arrays: list[Any] = []
    rebuilt = join(split(f, arrays), arrays)
    value = rebuilt(*operands)
    _warn_of_state(rebuilt, arrays)
    return value


def _warn_of_state(f: Function, arrays: list[Any]) -> None:
    """Warn if a call has replaced floating arrays of f, which `arrays` lists as they were.

    Integers and random keys may change: a Dropout or an RNN counts its calls with them.
    """
    held: list[Any] = []
    split(f, held)
    kept = set(map(id, held))
    lost = [a for a in arrays if id(a) not in kept and jnp.issubdtype(a.dtype, jnp.floating)]
    if lost:
        caller.warn(
            f"`f` changes {len(lost)} of its own arrays when it is called ({_describe(lost[0])}), "
            "as batch normalization does in training, where an example is normalized by its own "
            "statistics. The attributions are those of f in this mode. Call model.eval() before, "
            "or build the module with use_running_average=True",
            UserWarning,
        )


def _describe(value: Any) -> str:
    if hasattr(value, "dtype"):
        return f"{value.dtype}{list(jnp.shape(value))}"
    return trees.type_of(value)


def check_callable(value: Any, name: str) -> None:
    """Raise if the value cannot be called."""
    if not callable(value):
        raise TypeError(f"`{name}` must be a function, but is {trees.type_of(value)}")


def check_args(args: Any) -> None:
    """Raise if the further arguments of f are not a tuple of pytrees of arrays."""
    if not isinstance(args, tuple):
        raise TypeError(
            f"`args` must be a tuple of further arguments of f, but is {trees.type_of(args)}: "
            "for one argument write args=(label,)"
        )
    for leaf in jax.tree.leaves(args):
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, int, float, complex)):
            raise TypeError(
                f"`args` must hold arrays and numbers, but has {trees.type_of(leaf)}: "
                "bind anything else to f, with functools.partial"
            )


def value_of(f: Function, x: ArrayTree, args: Args) -> jax.Array:
    """Return f(x, *args), compiled."""
    return compiled(function_value, f)(x, args)


def staged(f: Function) -> Function:
    """Return the checked f under jit: all programs that contain it share one trace of it."""
    return lambda x, *args: value_of(f, x, args)


def function_value(f: Function, x: ArrayTree, args: Args) -> jax.Array:
    """Return f(x, *args)."""
    return checked(f)(x, *args)
