"""Measures of one attribution: how faithful, steady, well placed and simple it is.

A measure takes the function, the attributions of one example and the example:
`measure(f, attributions, x, ..., *, args=())`. It is pure, and works under `jax.jit` and
`jax.vmap`. Every docstring says between which values it lies, which direction is good, and what it
does not say.

Attributions may have one score for several numbers of x, such as one for each pixel: each leaf of
them has the shape of the leaf of x, or the first axes of that shape. The scores of a `xattr`
map (H, W, C) are made so by `abs(attributions).sum(-1)`.

No measure replaces the others. Pictures with parts blacked out are unlike those that a network was
trained on, so that a drop of the score may say that the picture is strange, not that the part was
relevant (Sundararajan et al. 2016, §2.5; Hooker et al. 2019).
"""

from xattr.evaluation.curves import aopc, deletion, insertion, perturbation_curve
from xattr.evaluation.faithfulness import faithfulness_correlation, infidelity
from xattr.evaluation.filling import neighbour_mean
from xattr.evaluation.maps import (
    complexity,
    input_recovery,
    pointing_game,
    relevance_mass,
    relevance_rank,
    sparseness,
)
from xattr.evaluation.randomization import efficient_mprt, random_logit, smooth_mprt
from xattr.evaluation.stability import average_sensitivity, max_sensitivity

__all__ = [
    "aopc",
    "average_sensitivity",
    "complexity",
    "deletion",
    "efficient_mprt",
    "faithfulness_correlation",
    "infidelity",
    "input_recovery",
    "insertion",
    "max_sensitivity",
    "neighbour_mean",
    "perturbation_curve",
    "pointing_game",
    "random_logit",
    "relevance_mass",
    "relevance_rank",
    "smooth_mprt",
    "sparseness",
]
