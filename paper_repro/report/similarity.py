"""How alike two maps (28, 28) are: rank correlations of xattr, SSIM and HOG of scikit-image."""

import warnings
from typing import Any

import jax
import numpy as np

from xattr import metrics

SSIM_WINDOW = 5
"""Pixels along a side of its windows, from Adebayo et al., appendix B."""
HOG_CELL = 7
"""Adebayo et al. take cells of 16 pixels for ImageNet; 3 × 3 of these do not fit in 28 pixels."""

METRICS = ("abs", "signed", "nonzero", "SSIM", "HOG")


def compare(first: np.ndarray, second: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return each metric of `METRICS` for pairs of maps (n, 28, 28): name -> (n,).

    "abs" and "signed" are Spearman's ρ of |A| and of A, "nonzero" that of |A| at pixels that are
    not black, "SSIM" the structural similarity of |A| scaled to [0, 1], "HOG" Pearson's
    correlation of histograms of oriented gradients of the same.
    """
    ranks = _ranks(first, second, images.reshape(first.shape))
    scaled = [(_unit(a), _unit(b)) for a, b in zip(first, second, strict=True)]
    return {
        **{name: np.asarray(values) for name, values in ranks.items()},
        "SSIM": np.array([ssim(a, b) for a, b in scaled]),
        "HOG": np.array([hog(a, b) for a, b in scaled]),
    }


@jax.jit
@jax.vmap
def _ranks(a: Any, b: Any, image: Any) -> dict[str, jax.Array]:
    return {
        "abs": metrics.spearman(a, b, absolute=True),
        "signed": metrics.spearman(a, b),
        "nonzero": metrics.spearman_nonzero(a, b, image),
    }


def _unit(attributions: np.ndarray) -> np.ndarray:
    """Scale |A| to [0, 1]; a constant map becomes zeros."""
    size = np.abs(np.asarray(attributions, np.float64))
    span = size.max() - size.min()
    return (size - size.min()) / (span or 1.0)


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean structural similarity of two maps in [0, 1]."""
    from skimage.metrics import structural_similarity

    return float(structural_similarity(first, second, win_size=SSIM_WINDOW, data_range=1.0))


def hog(first: np.ndarray, second: np.ndarray) -> float:
    """Return Pearson's correlation of the histograms of oriented gradients."""
    from skimage.feature import hog as histograms

    cells = (HOG_CELL, HOG_CELL)
    a, b = (histograms(values, pixels_per_cell=cells) for values in (first, second))
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore")  # NaN is wanted where a constant map has no correlation
        return float(np.corrcoef(a, b)[0, 1])
