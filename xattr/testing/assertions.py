"""One assertion for each axiom, on operands of one's own or on problems drawn."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from xattr import axioms
from xattr.axioms.gaps import Gap
from xattr.testing.instances import Problem
from xattr.types import Method


def _assertion(axiom: Callable[..., Gap], keeper: str) -> Callable[..., None]:
    """Return the assertion of one axiom, with a method that keeps it for its example."""

    @functools.wraps(axiom)
    def check(method: Method, *operands: Any, **options: Any) -> None:
        problem = operands[0] if len(operands) == 1 and isinstance(operands[0], Problem) else None
        if problem is None:
            gap = axiom(method, *operands, **options)
        else:
            gap = problem.gap(axiom, method, **options)
        if not bool(gap.holds):
            shown = f" on {problem!r}" if problem is not None else ""
            raise AssertionError(
                f"{axiom.__name__} is missed by {float(gap):.3g}, of which "
                f"{float(gap.tolerance):.1g} may be the arithmetic's{shown}"
            )

    text = inspect.cleandoc(axiom.__doc__ or "").split("\n", 1)[1].split(">>>")[0]
    check.__name__ = check.__qualname__ = f"assert_{axiom.__name__}"
    check.__module__ = __name__
    check.__doc__ = (
        f"Raise `AssertionError` where {axiom.__name__} is missed by more than its tolerance.\n\n"
        f"Takes what `xattr.axioms.{axiom.__name__}` takes, or a method and a problem.\n{text}"
        ">>> import hypothesis, xattr\n"
        f">>> p = hypothesis.find(xattr.testing.problems('{axiom.__name__}'), lambda p: True)\n"
        f">>> assert_{axiom.__name__}(xattr.{keeper}, p)"
    )
    check.__annotations__ = {**axiom.__annotations__, "return": None}
    check.__signature__ = inspect.signature(axiom).replace(  # type: ignore[attr-defined]
        return_annotation=None
    )
    return check


assert_completeness = _assertion(axioms.completeness, "integrated_gradients")
assert_sensitivity_a = _assertion(axioms.sensitivity_a, "integrated_gradients")
assert_sensitivity_b = _assertion(axioms.sensitivity_b, "integrated_gradients")
assert_dummy = assert_sensitivity_b
assert_implementation_invariance = _assertion(
    axioms.implementation_invariance, "integrated_gradients"
)
assert_linearity = _assertion(axioms.linearity, "integrated_gradients")
assert_symmetry = _assertion(axioms.symmetry, "integrated_gradients")
assert_input_invariance = _assertion(axioms.input_invariance, "gradient")
assert_affine_scale_invariance = _assertion(axioms.affine_scale_invariance, "integrated_gradients")
assert_zero_at_baseline = _assertion(axioms.zero_at_baseline, "integrated_gradients")
assert_conservation = _assertion(axioms.conservation, "integrated_gradients")
assert_positivity = _assertion(axioms.positivity, "integrated_gradients")
assert_proportionality = _assertion(axioms.proportionality, "integrated_gradients")
assert_time_reparametrization = _assertion(axioms.time_reparametrization, "path_integral")
