"""Attacks on attributions: the prediction stays, its explanation does not.

A shift of the data that the first layer's bias undoes (`shifts`), and small perturbations of the
input that keep the label and move the map (`fragility`).
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
