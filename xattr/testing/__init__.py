"""Help for tests: axioms as assertions on drawn functions, and a count of what was compiled.

`assert_axioms(method, claims={...})` tries each axiom that a method claims on functions drawn by
hypothesis, and shows the smallest counterexample as lines to paste. The strategies draw for tests
of your own. `hypothesis` comes with `pip install 'xattr-jax[test]'`.
"""

from xattr.testing.assertions import (
    assert_affine_scale_invariance,
    assert_completeness,
    assert_conservation,
    assert_dummy,
    assert_implementation_invariance,
    assert_input_invariance,
    assert_linearity,
    assert_positivity,
    assert_proportionality,
    assert_sensitivity_a,
    assert_sensitivity_b,
    assert_symmetry,
    assert_time_reparametrization,
    assert_zero_at_baseline,
)
from xattr.testing.compilations import KERNEL, KERNELS, count_compilations
from xattr.testing.functions import AXIOMS
from xattr.testing.instances import Problem, problem
from xattr.testing.search import Verdict, assert_axioms, falsify
from xattr.testing.strategies import (
    dummy_functions,
    equivalent_pairs,
    inputs,
    networks,
    paths,
    problems,
    quadratures,
    shifted_pairs,
    symmetric_functions,
)

__all__ = [
    "AXIOMS",
    "KERNEL",
    "KERNELS",
    "Problem",
    "Verdict",
    "assert_affine_scale_invariance",
    "assert_axioms",
    "assert_completeness",
    "assert_conservation",
    "assert_dummy",
    "assert_implementation_invariance",
    "assert_input_invariance",
    "assert_linearity",
    "assert_positivity",
    "assert_proportionality",
    "assert_sensitivity_a",
    "assert_sensitivity_b",
    "assert_symmetry",
    "assert_time_reparametrization",
    "assert_zero_at_baseline",
    "count_compilations",
    "dummy_functions",
    "equivalent_pairs",
    "falsify",
    "inputs",
    "networks",
    "paths",
    "problem",
    "problems",
    "quadratures",
    "shifted_pairs",
    "symmetric_functions",
]
