"""A specimen with its parameters, an input and a baseline: what an axiom is tried on."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xattr import axioms, paths
from xattr.axioms.gaps import Gap
from xattr.testing.functions import AXIOMS, SPECIMENS
from xattr.types import Array, ArrayTree, Function, Method, Path

PATHS: dict[str, Callable[..., Path]] = {
    "straight": lambda b, x, random: paths.straight_line(baseline=b, x=x),
    "monotone": lambda b, x, random: paths.monotone(
        baseline=b, x=x, exponents=jnp.asarray(random.uniform(1, 3, b.shape), b.dtype)
    ),
    "polyline": lambda b, x, random: paths.polyline(
        jnp.stack([b, b + jnp.asarray(random.normal(size=b.shape), b.dtype), x])
    ),
    "coordinatewise": lambda b, x, random: paths.coordinatewise(
        baseline=b, x=x, order=random.permutation(b.size)
    ),
}
"""Kind -> path from a baseline to an input, of numbers drawn at random."""

WARPS: dict[str, Callable[[Any], Any]] = {
    "cubed": lambda t: t**3,
    "late": lambda t: t * t,
    "early": lambda t: t * (2 - t),
}


FOR_ANY = {"completeness", "sensitivity_a", "affine_scale_invariance", "zero_at_baseline"}
FOR_ANY |= {"conservation", "time_reparametrization"}
"""Axioms that presuppose nothing of f."""

OPTIONS = ("feature", "i", "j", "a", "b", "shift", "scale", "layers", "path", "warp")
"""What an axiom may ask for besides a function, an input and a baseline."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Problem:
    """A specimen with its parameters, an input, a baseline, and what an axiom asks for besides.

    `problem.gap(axiom, method)` measures. What it prints as makes it again: paste it. Fields:
    `name` and `seed` of the specimen (see `xattr.testing.problem`), `x`, `baseline`, `options`
    (feature, i and j, a and b, shift, scale, layers, path, warp); `f`, `g` and `args` are functions
    and parameters.
    """

    name: str
    seed: int
    x: jax.Array
    baseline: jax.Array
    options: Mapping[str, Any]

    @property
    def f(self) -> Function:
        """The function, or the first of two."""
        return SPECIMENS[self.name].functions[0]

    @property
    def g(self) -> Function:
        """The second of two functions: equal to f, to be added to f, or f of a shifted input."""
        return SPECIMENS[self.name].functions[-1]

    @functools.cached_property
    def args(self) -> tuple[ArrayTree, ...]:
        """The parameters: f(x, *args)."""
        random = np.random.default_rng(self.seed)
        drawn: tuple[ArrayTree, ...]
        with jax.ensure_compile_time_eval():  # kept, so no tracers
            drawn = jax.tree.map(self._like_x, SPECIMENS[self.name].draw(random))
        return drawn

    def _like_x(self, values: Any) -> jax.Array:
        return floats(values).astype(self.x.dtype)

    @property
    def path(self) -> Path:
        """The path from the baseline to the input of `options["path"]`."""
        random = np.random.default_rng([self.seed, 1])
        return PATHS[self.options.get("path", "straight")](self.baseline, self.x, random)

    def gap(
        self,
        axiom: str | Callable[..., Gap],
        method: Method,
        *,
        refined: Sequence[Method] | None = None,
        **options: Any,
    ) -> Gap:
        """Measure by how much a method misses an axiom on this problem, with options of its own."""
        function = axiom_of(axiom) if isinstance(axiom, str) else axiom
        named = function.__name__
        if named not in FOR_ANY and self.name not in AXIOMS.get(named, SPECIMENS):
            raise ValueError(
                f"the specimen {self.name!r} does not keep what {function.__name__} presupposes: "
                f"take one of {', '.join(AXIOMS[function.__name__])}"
            )
        operands: dict[str, Any] = {**self.options, **options}
        operands |= {"f": self.f, "g": self.g, "shifted": self.g, "x": self.x}
        operands |= {"baseline": self.baseline, "args": self.args, "path": self.path}
        operands["warp"] = WARPS[self.options.get("warp", "cubed")]
        wanted = inspect.signature(function).parameters
        known = {name: value for name, value in operands.items() if name in wanted}
        return function(method, **known, refined=refined)

    def __repr__(self) -> str:
        parts = [f"{self.name!r}", f"seed={self.seed}"] if self.args else [f"{self.name!r}"]
        parts += [f"{name}={_text(getattr(self, name))}" for name in ("x", "baseline")]
        fixed = SPECIMENS[self.name].options
        drawn = {n: v for n, v in self.options.items() if n not in fixed or fixed[n] != v}
        parts += [f"{name}={_text(value)}" for name, value in drawn.items()]
        return f"xattr.testing.problem({', '.join(parts)})"

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        """Print as the above in hypothesis and IPython too."""
        printer.text(repr(self))


def problem(
    name: str,
    *,
    seed: int = 0,
    x: Any = None,
    baseline: Any = None,
    **options: Any,
) -> Problem:
    """Return a problem by the name of its specimen: what a counterexample is printed as.

    Problem = (f or f and g, x, baseline, args, options): f(x, *args) is a scalar.

    Shapes: `x` and `baseline` are arrays or nested lists of the specimen's shape; without, x is
    that of the paper or ones, the baseline zeros. All are in the precision of x, the default one if
    x is no array of JAX. `seed` draws the parameters; `options` are what an axiom asks for
    (feature, a, b, shift, scale, path, warp).
    Raises `ValueError` for a name that is not there or another shape.
    Source: `xattr.testing.AXIOMS` has the names of the specimens for each axiom.

    >>> import xattr
    >>> p = problem("saturated", feature=0)  # 1 − ReLU(1 − x) at 2
    >>> float(p.gap("sensitivity_a", xattr.gradient))
    1.0
    """
    if name not in SPECIMENS:
        raise ValueError(f"`name` is {name!r}; the specimens are {', '.join(SPECIMENS)}")
    shape, witness = SPECIMENS[name].shape, SPECIMENS[name].witness
    x = floats((witness or np.ones(shape)) if x is None else x)
    baseline = floats(np.zeros(shape) if baseline is None else baseline).astype(x.dtype)
    for label, array in (("x", x), ("baseline", baseline)):
        if array.shape != shape:
            raise ValueError(
                f"`{label}` has shape {array.shape}, but the specimen {name!r} takes {shape}"
            )
    for option, value in options.items():
        known = {"path": PATHS, "warp": WARPS}.get(option, ())
        if option not in OPTIONS or (known and value not in known):
            raise ValueError(
                f"`{option}` is {value!r}, but the options are {', '.join(OPTIONS)}; paths "
                f"{', '.join(PATHS)}; warps {', '.join(WARPS)}"
            )
    for option in ("shift", "scale"):
        if option in options:
            options[option] = jnp.broadcast_to(floats(options[option]).astype(x.dtype), shape)
    return Problem(name, int(seed), x, baseline, {**SPECIMENS[name].options, **options})


def axiom_of(name: str) -> Callable[..., Gap]:
    """Return an axiom by its name."""
    if name not in AXIOMS:
        raise ValueError(f"there is no axiom {name!r}; the axioms are {', '.join(AXIOMS)}")
    axiom: Callable[..., Gap] = getattr(axioms, name)
    return axiom


def floats(values: Any) -> jax.Array:
    """Return numbers as an array of the default precision."""
    if isinstance(values, jax.Array) and jnp.issubdtype(values.dtype, jnp.floating):
        return values
    return jnp.asarray(np.asarray(values, np.float64), jnp.zeros(()).dtype)


def _text(value: Any) -> str:
    if not isinstance(value, Array):
        return repr(value)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return str(np.asarray(value).tolist())
    shortest = [float(str(number)) for number in np.asarray(value).ravel()]  # 0.1 in float32, too
    return str(np.reshape(shortest, value.shape).tolist())
