"""How alike two maps are: rank correlations of xattr, SSIM and HOG of scikit-image."""

import warnings
from typing import Any

import jax
import numpy as np

from xattr import metrics

SSIM_WINDOW = 5
"""Pixels along a side of its windows, from Adebayo et al., appendix B."""
HOG_CELL = 7
"""Pixels along a side of a cell, for 28 × 28: 3 × 3 cells of `PHOTOGRAPH_CELL` do not fit there."""
PHOTOGRAPH_CELL = 16
"""The same from Adebayo et al., for ImageNet."""

METRICS = ("abs", "signed", "nonzero", "SSIM", "HOG")


def compare(first: np.ndarray, second: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return each metric of `METRICS` for pairs of maps (n, 28, 28): name -> (n,).

    "abs" and "signed" are Spearman's ρ of |A| and of A, "nonzero" that of |A| at pixels that are
    not black, "SSIM" the structural similarity of |A| scaled to [0, 1], "HOG" Pearson's
    correlation of histograms of oriented gradients of the same.
    """
    ranks = _ranks(first, second, images.reshape(first.shape))
    scaled = [(unit(a), unit(b)) for a, b in zip(first, second, strict=True)]
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


def unit(attributions: np.ndarray) -> np.ndarray:
    """Scale |A| to [0, 1]; a constant map becomes zeros."""
    size = np.abs(np.asarray(attributions, np.float64))
    span = size.max() - size.min()
    return (size - size.min()) / (span or 1.0)


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean structural similarity of two maps in [0, 1]."""
    from skimage.metrics import structural_similarity

    return float(structural_similarity(first, second, win_size=SSIM_WINDOW, data_range=1.0))


def hog(first: np.ndarray, second: np.ndarray, cell: int = HOG_CELL) -> float:
    """Return Pearson's correlation of the histograms of oriented gradients."""
    return correlation(histograms(first, cell), histograms(second, cell))


def histograms(values: np.ndarray, cell: int) -> np.ndarray:
    """Return the histograms of oriented gradients of a map, with cells of cell × cell pixels."""
    from skimage.feature import hog as oriented

    found: np.ndarray = oriented(values, pixels_per_cell=(cell, cell))
    return found


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Pearson's correlation of two arrays, NaN if one is constant."""
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore")  # NaN is wanted where a constant map has no correlation
        return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])
