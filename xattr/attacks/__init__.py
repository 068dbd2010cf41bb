"""Attacks on attributions: they change the explanation and keep the prediction.

- `shifts`: the data are shifted, and the bias of the first layer undoes it.
- `fragility`: a small perturbation of the input keeps the label and changes the map.
"""

from xattr.attacks.fragility import (
    AttackResult,
    attack_attributions,
    checkerboard,
    random_perturbation,
)
from xattr.attacks.shifts import mean_shift, targeted_shift

__all__ = [
    "AttackResult",
    "attack_attributions",
    "checkerboard",
    "mean_shift",
    "random_perturbation",
    "targeted_shift",
]
