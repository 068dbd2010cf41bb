"""One assertion for each axiom, on operands of one's own or on problems drawn."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xattr.testing.instances import Problem
from xattr.testing.registry import AXIOMS, Axiom
from xattr.types import Method


def assertion(axiom: Axiom) -> Callable[..., None]:
    """Return the assertion of one axiom: its measure, with an error where it is missed.

    Every axiom of `xattr.testing.AXIOMS` at import has its own, as `assert_completeness`; this is
    for axioms that are added later. It holds where gap.value ≤ gap.tolerance.

    Args:
        axiom: an entry of `xattr.testing.AXIOMS`.

    Returns:
        A function that takes what the axiom's measure takes, or a method and a problem; it returns
        None.

    Raises:
        AssertionError: by the function that is returned, if the gap exceeds its tolerance.

    Source:
        The measure's; `xattr.testing.Axiom` describes an entry.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> check = assertion(xattr.testing.AXIOMS["completeness"])
        >>> check(xattr.integrated_gradients, lambda x: x[0] * x[1], jnp.ones(2))
    """

    @functools.wraps(axiom.measure)
    def check(method: Method, *operands: Any, **options: Any) -> None:
        problem = operands[0] if len(operands) == 1 and isinstance(operands[0], Problem) else None
        if problem is None:
            gap = axiom.measure(method, *operands, **options)
        else:
            gap = problem.gap(axiom.measure, method, **options)
        if not bool(gap.holds):
            shown = f" on {problem!r}" if problem is not None else ""
            raise AssertionError(
                f"{axiom.name} is missed by {float(gap):.3g}, of which "
                f"{float(gap.tolerance):.1g} may be the arithmetic's{shown}"
            )

    check.__name__ = check.__qualname__ = f"assert_{axiom.name}"
    check.__module__ = __name__
    check.__doc__ = _described(axiom)
    check.__annotations__ = {**axiom.measure.__annotations__, "return": None}
    check.__signature__ = inspect.signature(axiom.measure).replace(  # type: ignore[attr-defined]
        return_annotation=None
    )
    return check


def _described(axiom: Axiom) -> str:
    """Return the docstring of an assertion, made of that of the measure."""
    text = inspect.cleandoc(axiom.measure.__doc__ or "")
    about, *parts = re.split(r"^(\w+):\n", text, flags=re.M)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    name = axiom.name
    missed = f"    AssertionError: if {name} is missed by more than the tolerance of its gap.\n"
    return (
        f"Raise `AssertionError` where {name} is missed by more than its tolerance.\n"
        f"{about.partition(chr(10))[2]}"
        f"Takes what `xattr.axioms.{name}` takes, or a method and an `xattr.testing.Problem`.\n\n"
        f"Args:\n{sections.get('Args', '')}"
        "Returns:\n    None, where the gap is within its tolerance.\n\n"
        f"Raises:\n{missed}{sections.get('Raises', chr(10))}"
        f"Source:\n{sections.get('Source', '')}"
        "Example:\n    >>> import hypothesis, xattr\n"
        f"    >>> p = hypothesis.find(xattr.testing.problems('{name}'), lambda p: True)\n"
        f"    >>> xattr.testing.assert_{name}(xattr.{axiom.example}, p)\n"
    )


ASSERTIONS = {f"assert_{name}": assertion(axiom) for name, axiom in AXIOMS.items()}
ASSERTIONS["assert_dummy"] = ASSERTIONS["assert_sensitivity_b"]
globals().update(ASSERTIONS)

__all__ = [*ASSERTIONS, "assertion"]

if TYPE_CHECKING:  # type checkers do not see the names above

    def __getattr__(name: str) -> Callable[..., None]: ...
