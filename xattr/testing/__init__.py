"""Help for tests: axioms as assertions on drawn functions, and a count of what was compiled.

`assert_axioms(method, claims={...})` tries each axiom that a method claims on functions drawn by
hypothesis, and shows the smallest counterexample as lines to paste. The strategies draw for tests
of your own. `hypothesis` comes with `pip install 'xattr-jax[test]'`.
"""

from typing import TYPE_CHECKING

from xattr.testing.assertions import *  # noqa: F403 - assert_completeness, …: one an axiom
from xattr.testing.assertions import ASSERTIONS, assertion
from xattr.testing.compilations import KERNEL, KERNELS, count_compilations
from xattr.testing.instances import Problem, problem
from xattr.testing.registry import AXIOMS, Axiom
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

if TYPE_CHECKING:
    from xattr.testing.assertions import __getattr__ as __getattr__

__all__ = [
    "AXIOMS",
    "KERNEL",
    "KERNELS",
    "Axiom",
    "Problem",
    "Verdict",
    "assert_axioms",
    "assertion",
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
    *ASSERTIONS,
]
