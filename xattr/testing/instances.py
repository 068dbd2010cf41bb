"""Problems: what an axiom is tried on."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xattr.axioms.gaps import Gap
from xattr.testing import options as kinds
from xattr.testing import registry
from xattr.testing.functions import Specimen
from xattr.types import Array, ArrayTree, Function, Method, Path


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Problem:
    """A specimen with its parameters, an input, a baseline, and what an axiom asks for besides.

    `problem.gap(axiom, method)` measures. The `repr` makes the same problem when it is pasted. The
    fields are `name` and `seed` of the specimen (see `xattr.testing.problem`), `x`, `baseline` and
    `options` (feature, i and j, a and b, shift, scale, layers, path, warp). `f` and `g` are the
    functions, `args` their parameters.
    """

    name: str
    seed: int
    x: jax.Array
    baseline: jax.Array
    options: Mapping[str, Any]

    @property
    def specimen(self) -> Specimen:
        """The functions, the shape of their input, and what draws their parameters."""
        return registry.specimens()[self.name]

    @property
    def f(self) -> Function:
        """The function, or the first of two."""
        return self.specimen.functions[0]

    @property
    def g(self) -> Function:
        """The second of two functions: equal to f, to be added to f, or f of a shifted input."""
        return self.specimen.functions[-1]

    @functools.cached_property
    def args(self) -> tuple[ArrayTree, ...]:
        """The parameters: f(x, *args)."""
        random = np.random.default_rng(self.seed)
        drawn: tuple[ArrayTree, ...]
        with jax.ensure_compile_time_eval():  # kept, so no tracers
            drawn = jax.tree.map(self._in_precision_of_x, self.specimen.draw(random))
        return drawn

    def _in_precision_of_x(self, values: Any) -> jax.Array:
        return kinds.floats(values).astype(self.x.dtype)

    @property
    def path(self) -> Path:
        """The path from the baseline to the input of `options["path"]`."""
        return kinds.path_of(self, self.options.get("path", kinds.PATH.default))

    def gap(
        self,
        axiom: str | Callable[..., Gap],
        method: Method,
        *,
        refined: Sequence[Method] | None = None,
        **options: Any,
    ) -> Gap:
        """Measure by how much a method misses an axiom on this problem, with options of its own."""
        record = registry.record_of(axiom)
        if record.presupposes and self.name not in record.functions:
            raise ValueError(
                f"the specimen {self.name!r} does not keep what {record.name} presupposes, "
                f"{record.presupposes}: take one of {', '.join(record.functions)}"
            )
        given = {n: o.default for n, o in record.options.items() if o.default is not None}
        given |= {**self.options, **options}
        operands = {
            name: record.options[name].operand(self, value) if name in record.options else value
            for name, value in given.items()
        }
        operands |= {"f": self.f, "g": self.g, "shifted": self.g, "x": self.x}
        operands |= {"baseline": self.baseline, "args": self.args}
        wanted = inspect.signature(record.measure).parameters
        known = {name: value for name, value in operands.items() if name in wanted}
        return record.measure(method, **known, refined=refined)

    def __repr__(self) -> str:
        parts = [f"{self.name!r}", f"seed={self.seed}"] if self.args else [f"{self.name!r}"]
        parts += [f"{name}={_text(getattr(self, name))}" for name in ("x", "baseline")]
        fixed = self.specimen.options
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
    """Return a problem by the name of its functions: what a counterexample is printed as.

    Problem = (f or f and g, x, baseline, args, options): f(x, *args) is a scalar.

    Args:
        name: the name of one function or a pair, of `xattr.testing.AXIOMS[axiom].functions`.
        seed: the seed of the parameters.
        x: the input, an array or nested list of the function's shape. If None it is the input of
            the paper, or ones. Parameters, baseline and options get its precision, the default one
            if x is not an array of JAX.
        baseline: the baseline, of the same shape; zeros if None.
        **options: what an axiom asks for besides (feature, i, j, layers, a, b, shift, scale, path,
            warp).

    Returns:
        A `Problem`.

    Raises:
        ValueError: if there are no such functions or options, or the shape is another.

    Source:
        `xattr.testing.AXIOMS` has the functions of each axiom.

    Example:
        >>> import xattr
        >>> p = problem("saturated", feature=0)  # 1 − ReLU(1 − x) at 2
        >>> float(p.gap("sensitivity_a", xattr.gradient))
        1.0
    """
    specimens = registry.specimens()
    if name not in specimens:
        raise ValueError(f"`name` is {name!r}; the specimens are {', '.join(specimens)}")
    specimen = specimens[name]
    x = kinds.floats((specimen.witness or np.ones(specimen.shape)) if x is None else x)
    baseline = kinds.floats(np.zeros(specimen.shape) if baseline is None else baseline)
    for label, array in (("x", x), ("baseline", baseline)):
        if array.shape != specimen.shape:
            raise ValueError(
                f"`{label}` has shape {array.shape}, but the specimen {name!r} takes "
                f"{specimen.shape}"
            )
    checked = {option: _checked(option, value, x) for option, value in options.items()}
    return Problem(name, int(seed), x, baseline.astype(x.dtype), {**specimen.options, **checked})


def _checked(name: str, value: Any, x: jax.Array) -> Any:
    """Return the value of an option as a problem keeps it, or raise if there is none such."""
    known = registry.all_options()
    option = known.get(name)
    of_functions = {each for one in registry.specimens().values() for each in one.options}
    if (option is None and name not in of_functions) or (
        option is not None and option.choices and value not in option.choices
    ):
        choices = [f"{n} is one of {', '.join(o.choices)}" for n, o in known.items() if o.choices]
        raise ValueError(
            f"`{name}` is {value!r}, but the options are "
            f"{'; '.join([', '.join(sorted({*known, *of_functions})), *choices])}"
        )
    return kinds.like_x(value, x) if option is not None and option.is_like_x else value


def _text(value: Any) -> str:
    if not isinstance(value, Array):
        return repr(value)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return str(np.asarray(value).tolist())
    shortest = [float(str(number)) for number in np.asarray(value).ravel()]  # 0.1 in float32, too
    return str(np.reshape(shortest, value.shape).tolist())
