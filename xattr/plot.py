"""Pictures of attributions: matplotlib Axes in, the same Axes out.

`matplotlib` is imported when a picture is made, not with the package.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from xattr.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes: TypeAlias = Any

Channels: TypeAlias = Literal["sum", "absolute"]

__all__ = ["heatmap", "overlay", "panel", "signed_channels"]


def heatmap(
    ax: Axes,
    attributions: Array,
    *,
    channels: Channels = "sum",
    percentile: float = 99.5,
    colorbar: bool = False,
) -> Axes:
    """Draw a map of pixel scores, red for and blue against, white for nothing.

    score = Σ_c A_c (`channels="sum"`, diverging colours) or Σ_c |A_c| ("absolute", from light to
    dark), clipped at the percentile of |score|, symmetric about 0.

    Shapes: `attributions` (H, W) or (H, W, C); a colour bar in units of f if asked for.
    Raises `ValueError` for other shapes, values that are not finite and an unknown `channels`.
    Source: Σ_c |·| is Sundararajan et al. 2016, eq. 1; the signed sum is the 2017 paper's.

    >>> import matplotlib.figure, numpy as np
    >>> ax = heatmap(matplotlib.figure.Figure().add_subplot(), np.eye(4) - 0.5)
    >>> len(ax.images)
    1
    """
    score = pixel_scores(attributions, channels)
    limit = _limit(score, percentile)
    low, colours = (-limit, "RdBu_r") if channels == "sum" else (0.0, "magma_r")
    image = ax.imshow(score, cmap=colours, vmin=low, vmax=limit, interpolation="nearest")
    if colorbar:
        bar = ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
        bar.ax.tick_params(labelsize="x-small")
        bar.ax.ticklabel_format(axis="y", scilimits=(-2, 3))
    return _bare(ax)


def overlay(
    ax: Axes,
    image: Array,
    attributions: Array,
    *,
    channels: Channels = "sum",
    percentile: float = 99.5,
) -> Axes:
    """Draw pixel scores over the grey image, the stronger the less of the image shows through.

    opacity = min(1, |score| / limit), limit the percentile of |score|; colours as `heatmap`, but
    from dark to light for "absolute".

    Shapes: `image` (H, W), (H, W, 1) or (H, W, 3) in [0, 1]; `attributions` (H, W) or (H, W, C) of
    the same height and width. Raises `ValueError` where they do not match, and as `heatmap` does.
    Source: Sundararajan et al. 2016, §2.1 (scores shown in proportion over the image).

    >>> import matplotlib.figure, numpy as np
    >>> ax = overlay(matplotlib.figure.Figure().add_subplot(), np.ones((4, 4)), np.eye(4))
    >>> len(ax.images)
    2
    """
    score = pixel_scores(attributions, channels)
    grey = _picture(image)
    grey = grey if grey.ndim == 2 else grey @ np.array([0.299, 0.587, 0.114])
    if grey.shape != score.shape:
        raise ValueError(
            f"`attributions` are {score.shape} pixels, but `image` is {grey.shape}: "
            "pass the attributions of this image"
        )
    ax.imshow(grey, cmap="gray", vmin=0, vmax=1)
    limit = _limit(score, percentile)
    signed = channels == "sum"
    opacity = np.clip(np.abs(score) / limit, 0, 1)
    low, colours = (-limit, "RdBu_r") if signed else (0.0, "magma")
    ax.imshow(score, cmap=colours, vmin=low, vmax=limit, alpha=opacity, interpolation="nearest")
    return _bare(ax)


def signed_channels(ax: Axes, attributions: Array, *, percentile: float = 100.0) -> Axes:
    """Draw positive scores in green and negative ones in red, on black, with their sum beneath.

    green = max(score, 0), red = max(−score, 0), both divided by the percentile of |score| and
    clipped at 1; the label is Σ A of the raw attributions.

    Shapes: `attributions` (H, W) or (H, W, C), summed over C with their signs.
    Raises `ValueError` for other shapes and for values that are not finite.
    Source: Sundararajan & Taly 2018, "A Note about: Local Explanation Methods for Deep Neural
    Networks lack Sensitivity to Parameter Values", fig. 3.

    >>> import matplotlib.figure, numpy as np
    >>> ax = signed_channels(matplotlib.figure.Figure().add_subplot(), np.eye(4) / 8)
    >>> ax.get_xlabel()
    'Σ = 0.5'
    """
    score = pixel_scores(attributions, "sum")
    scaled = score / _limit(score, percentile)
    picture = np.stack([-scaled, scaled, np.zeros_like(scaled)], axis=-1)
    ax.imshow(np.clip(picture, 0, 1), interpolation="nearest")
    ax.set_xlabel(f"Σ = {np.asarray(attributions, np.float64).sum():.4g}")
    return _bare(ax)


def panel(
    axes: Sequence[Axes],
    image: Array,
    maps: Mapping[str, Array],
    *,
    title: str = "input",
    channels: Channels = "sum",
    percentile: float = 99.5,
) -> Sequence[Axes]:
    """Draw the image, then each map of attributions under its name, with a colour bar each.

    score = Σ_c A_c or Σ_c |A_c|, colours as `heatmap`; every map has its own scale, since methods
    differ in units.

    Shapes: `axes`, in a list or an array of them, at least as many as maps and one; those left over
    are hidden; the result is the list. `image` (H, W),
    (H, W, 1) or (H, W, 3) in [0, 1]. Raises `ValueError` for too few axes, and as `heatmap` does.
    Source: Sundararajan et al. 2016, "Gradients of Counterfactuals", fig. 4 (the layout).

    >>> import matplotlib.figure, numpy as np
    >>> axes = matplotlib.figure.Figure().subplots(1, 3)
    >>> axes = panel(axes, np.ones((4, 4)), {"gradient": np.eye(4), "IG": -np.eye(4)})
    >>> [ax.get_title() for ax in axes]
    ['input', 'gradient', 'IG']
    """
    axes = np.ravel(np.asarray(axes, dtype=object)).tolist()
    if len(axes) <= len(maps):
        raise ValueError(
            f"`axes` has {len(axes)} axes, but {len(maps)} maps and the image need "
            f"{len(maps) + 1}: make them with figure.subplots(1, {len(maps) + 1})"
        )
    _bare(axes[0]).imshow(_picture(image), cmap="gray", vmin=0, vmax=1)
    axes[0].set_title(title)
    for ax, (name, attributions) in zip(axes[1:], maps.items(), strict=False):
        heatmap(ax, attributions, channels=channels, percentile=percentile, colorbar=True)
        ax.set_title(name)
    for ax in axes[len(maps) + 1 :]:
        ax.set_visible(False)
    return axes


def pixel_scores(attributions: Array, channels: Channels = "sum") -> np.ndarray:
    """Return one score a pixel, in float64: the sum of a map over its channels, or of |map|.

    score = Σ_c A_c, or Σ_c |A_c|.

    Shapes: (H, W) or (H, W, C) to (H, W). Raises `ValueError` for other shapes, values that are not
    finite and an unknown `channels`. Source: Sundararajan et al. 2016, eq. 1.

    >>> pixel_scores(np.array([[[1.0, -1.0]]]), "absolute")
    array([[2.]])
    """
    values = np.asarray(attributions).astype(np.float64)
    if values.ndim not in (2, 3) or not values.size:
        raise ValueError(
            f"`attributions` must be a map (H, W) or (H, W, C), but has shape {values.shape}: "
            "draw one example at a time"
        )
    if not np.isfinite(values).all():
        raise ValueError("`attributions` has values that are not finite: look for NaN in f")
    if channels not in ("sum", "absolute"):
        raise ValueError(f"`channels` must be 'sum' or 'absolute', not {channels!r}")
    values = np.abs(values) if channels == "absolute" else values
    return values if values.ndim == 2 else values.sum(-1)


def _limit(score: np.ndarray, percentile: float) -> float:
    """Return the percentile of |score|; where that is 0 the largest |score|, or 1."""
    if not 0 < percentile <= 100:
        raise ValueError(f"`percentile` must lie above 0 and up to 100, not {percentile!r}")
    size = np.abs(score)
    return float(np.percentile(size, percentile) or size.max() or 1.0)


def _picture(image: Array) -> np.ndarray:
    """Return an image to draw: (H, W) or (H, W, 3), clipped to [0, 1]."""
    values = np.asarray(image).astype(np.float64)
    values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    if values.ndim != 2 and (values.ndim != 3 or values.shape[-1] != 3):
        raise ValueError(
            f"`image` must have shape (H, W), (H, W, 1) or (H, W, 3), but has {np.shape(image)}: "
            "put the channels last and draw one image at a time"
        )
    if not (values.min() >= -1e-3 and values.max() <= 1 + 1e-3):  # also for NaN
        raise ValueError(
            f"`image` must have values in [0, 1], but has {values.min():g} to {values.max():g}: "
            "divide bytes by 255, or undo the model's normalisation"
        )
    return np.clip(values, 0, 1)


def _bare(ax: Axes) -> Axes:
    ax.set_xticks([])
    ax.set_yticks([])
    return ax
