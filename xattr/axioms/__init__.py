"""The axioms that attributions are held to: each a function that measures by how much it is missed.

An axiom is `axiom(method, f, ..., *, args=(), refined=None) -> Gap` for one example, where `method`
is any function `method(f, x, baseline, *, args)` or `method(f, x, *, args)`: one of this library,
one of yours, one bound by `functools.partial`. It is pure and works under `jax.jit` and `jax.vmap`.

A gap has a `value`, 0 where the axiom holds, and a `tolerance`, the part of it that rounding and
the quadrature can account for.

- The error of a quadrature is estimated as 8 times the largest change when it is repeated on two or
  three pieces. A method with an option `quadrature` is refined in this way. For any other method
  pass versions with more steps or samples as `refined`, or () if it is exact.
- The rounding is estimated as 1024 units in the last place of the attributions and of f. Check
  axioms in float64 where you can.
- The estimate is large if there is a kink between two nodes. With `refined=()` only
  rounding is allowed for. A fixed quadrature keeps all axioms but completeness to rounding, if no
  node lies on a kink.

If an axiom compares two attributions, they need not have the shape of x.

What an axiom presupposes of f (that it does not depend on a feature, that two functions are equal)
is the caller's promise. `xattr.testing` draws functions that keep it.

Which axioms single out which method is contested. That path methods are the only ones with
completeness, linearity, dummy and implementation invariance rests on Friedman 2004, whose functions
are not those of networks; Lundstrom et al. 2022 add non-decreasing positivity. The proof that the
straight line is the only path that preserves symmetry is for one fixed pair of baseline and input,
and a path may depend on them (Lerma & Lucas 2021). Lundstrom & Razaviyayn 2025 prove four
characterizations for networks.
"""

from xattr.axioms.comparing import (
    affine_scale_invariance,
    conservation,
    implementation_invariance,
    input_invariance,
    linearity,
    time_reparametrization,
)
from xattr.axioms.gaps import Gap
from xattr.axioms.single import (
    completeness,
    completeness_gap,
    dummy,
    positivity,
    proportionality,
    sensitivity_a,
    sensitivity_b,
    symmetry,
    zero_at_baseline,
)

__all__ = [
    "Gap",
    "affine_scale_invariance",
    "completeness",
    "completeness_gap",
    "conservation",
    "dummy",
    "implementation_invariance",
    "input_invariance",
    "linearity",
    "positivity",
    "proportionality",
    "sensitivity_a",
    "sensitivity_b",
    "symmetry",
    "time_reparametrization",
    "zero_at_baseline",
]
