"""Maps of the pixels of a picture, drawn into the matplotlib Axes that you pass."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from xattr.plot.scales import DIVERGING, Axes, bare, color_bar, limit_of
from xattr.types import Array

Channels: TypeAlias = Literal["sum", "absolute"]
"""How the channels of a pixel become one score: Σ_c A_c or Σ_c |A_c|."""


def heatmap(
    ax: Axes,
    attributions: Array,
    *,
    channels: Channels = "sum",
    percentile: float = 99.5,
    colorbar: bool = False,
) -> Axes:
    """Draw a map of pixel scores: red for positive, blue for negative, white for zero.

    score = Σ_c A_c (`channels="sum"`) or Σ_c |A_c| (`channels="absolute"`), clipped at the
    percentile of |score|, on a scale that is symmetric about 0.

    Args:
        ax: the matplotlib Axes to draw into.
        attributions: a map of shape (H, W) or (H, W, C), of one example.
        channels: "sum" for diverging colours, "absolute" for colours from light to dark.
        percentile: of |score|, above 0 and up to 100, where the colours end.
        colorbar: whether to draw a colour bar, in units of f.

    Returns:
        The same Axes.

    Raises:
        ValueError: for another shape, values that are not finite, an unknown `channels`, or a
            percentile outside (0, 100].

    Source:
        Σ_c |·| is Sundararajan et al. 2016, eq. 1; the signed sum is that of the 2017 paper.

    Example:
        >>> import matplotlib.figure, numpy as np
        >>> ax = heatmap(matplotlib.figure.Figure().add_subplot(), np.eye(4) - 0.5)
        >>> len(ax.images)
        1
    """
    score = pixel_scores(attributions, channels)
    limit = limit_of(score, percentile)
    low, colours = (-limit, DIVERGING) if channels == "sum" else (0.0, "magma_r")
    image = ax.imshow(score, cmap=colours, vmin=low, vmax=limit, interpolation="nearest")
    if colorbar:
        color_bar(ax, image, fraction=0.046, pad=0.03)
    return bare(ax)


def overlay(
    ax: Axes,
    image: Array,
    attributions: Array,
    *,
    channels: Channels = "sum",
    percentile: float = 99.5,
) -> Axes:
    """Draw pixel scores over the image in grey; a large score hides the image.

    opacity = min(1, |score| / limit), where limit is the percentile of |score|.

    The colours are those of `heatmap`, but from dark to light for "absolute".

    Args:
        ax: the matplotlib Axes to draw into.
        image: an image of shape (H, W), (H, W, 1) or (H, W, 3) with values in [0, 1].
        attributions: a map of shape (H, W) or (H, W, C) with the height and width of the image.
        channels: "sum" for Σ_c A_c, "absolute" for Σ_c |A_c|.
        percentile: of |score|, above 0 and up to 100, where the opacity and the colours end.

    Returns:
        The same Axes.

    Raises:
        ValueError: if the sizes of map and image differ, for another shape, values that are not
            finite, an image outside [0, 1], an unknown `channels`, or a percentile outside (0,
            100].

    Source:
        Sundararajan et al. 2016, §2.1 (scores shown in proportion over the image).

    Example:
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
    limit = limit_of(score, percentile)
    signed = channels == "sum"
    opacity = np.clip(np.abs(score) / limit, 0, 1)
    low, colours = (-limit, DIVERGING) if signed else (0.0, "magma")
    ax.imshow(score, cmap=colours, vmin=low, vmax=limit, alpha=opacity, interpolation="nearest")
    return bare(ax)


def signed_channels(ax: Axes, attributions: Array, *, percentile: float = 100.0) -> Axes:
    """Draw positive scores in green and negative ones in red on black; the label is their sum.

    green = max(score, 0), red = max(−score, 0), both divided by the percentile of |score| and
    clipped at 1. The label below the picture is Σ A of the attributions.

    Args:
        ax: the matplotlib Axes to draw into.
        attributions: a map of shape (H, W) or (H, W, C); channels are summed with their signs.
        percentile: of |score|, above 0 and up to 100, where the colours end.

    Returns:
        The same Axes.

    Raises:
        ValueError: for another shape, values that are not finite, or a percentile outside (0, 100].

    Source:
        Sundararajan & Taly 2018, "A Note about: Local Explanation Methods for Deep Neural Networks
        lack Sensitivity to Parameter Values", fig. 3.

    Example:
        >>> import matplotlib.figure, numpy as np
        >>> ax = signed_channels(matplotlib.figure.Figure().add_subplot(), np.eye(4) / 8)
        >>> ax.get_xlabel()
        'Σ = 0.5'
    """
    score = pixel_scores(attributions, "sum")
    scaled = score / limit_of(score, percentile)
    picture = np.stack([-scaled, scaled, np.zeros_like(scaled)], axis=-1)
    ax.imshow(np.clip(picture, 0, 1), interpolation="nearest")
    ax.set_xlabel(f"Σ = {np.asarray(attributions, np.float64).sum():.4g}")
    return bare(ax)


def panel(
    axes: Sequence[Axes],
    image: Array,
    maps: Mapping[str, Array],
    *,
    title: str = "input",
    channels: Channels = "sum",
    percentile: float = 99.5,
) -> Sequence[Axes]:
    """Draw the image, then each map under its name, each with a colour bar.

    score = Σ_c A_c or Σ_c |A_c|, in the colours of `heatmap`. Every map has a scale of its own,
    since methods differ in units.

    Args:
        axes: a list or an array of matplotlib Axes: one for the image and one for each map. Axes
            that are left over are hidden.
        image: an image of shape (H, W), (H, W, 1) or (H, W, 3) with values in [0, 1].
        maps: from the name of a method to its map, of shape (H, W) or (H, W, C).
        title: the title of the image.
        channels: "sum" for Σ_c A_c, "absolute" for Σ_c |A_c|.
        percentile: of |score|, above 0 and up to 100, where the colours of a map end.

    Returns:
        The Axes, as a list.

    Raises:
        ValueError: for too few axes, another shape, values that are not finite, an image outside
            [0, 1], an unknown `channels`, or a percentile outside (0, 100].

    Source:
        Sundararajan et al. 2016, "Gradients of Counterfactuals", fig. 4 (the layout).

    Example:
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
    bare(axes[0]).imshow(_picture(image), cmap="gray", vmin=0, vmax=1)
    axes[0].set_title(title)
    for ax, (name, attributions) in zip(axes[1:], maps.items(), strict=False):
        heatmap(ax, attributions, channels=channels, percentile=percentile, colorbar=True)
        ax.set_title(name)
    for ax in axes[len(maps) + 1 :]:
        ax.set_visible(False)
    return axes


def pixel_scores(attributions: Array, channels: Channels = "sum") -> np.ndarray:
    """Return one score a pixel, in float64: Σ_c A_c, or Σ_c |A_c| for "absolute".

    A map (H, W) or (H, W, C) becomes (H, W). Source: Sundararajan et al. 2016, eq. 1.

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


def _picture(image: Array) -> np.ndarray:
    """Return the image as (H, W) or (H, W, 3), clipped to [0, 1]."""
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
