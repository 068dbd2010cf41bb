"""A matrix of attributions between words, and curves of scores along a path."""

from collections.abc import Sequence

import numpy as np

from xattr.plot.scales import (
    DIVERGING,
    Axes,
    check_names,
    color_bar,
    finite,
    ink,
    limit_of,
    plain,
)
from xattr.types import Array


def matrix(
    ax: Axes,
    attributions: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    percentile: float = 100.0,
    digits: int | None = 2,
    colorbar: bool = False,
) -> Axes:
    """Draw a matrix of scores with the names of rows and columns: target words and source words.

    Red is positive, blue negative, white zero, on a scale that is symmetric about 0 and ends at the
    percentile of |score|.

    Args:
        ax: the matplotlib Axes to draw into.
        attributions: scores of shape (rows, columns).
        rows: the name of each row, such as the words of a translation.
        columns: the name of each column, such as the words of the source.
        percentile: of |score|, above 0 and up to 100, where the colours end.
        digits: decimals of the value that is written into each cell. None writes none.
        colorbar: whether to draw a colour bar, in units of f.

    Returns:
        The same Axes.

    Raises:
        ValueError: for another shape, values that are not finite, another number of names, or a
            percentile outside (0, 100].

    Source:
        Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", fig. 5.

    Example:
        >>> import matplotlib.figure, xattr
        >>> ax = matplotlib.figure.Figure().add_subplot()
        >>> ax = xattr.plot.matrix(ax, [[0.9, -0.1]], ["Morgen"], ["morning", "good"])
        >>> [text.get_text() for text in ax.texts]
        ['0.90', '−0.10']
    """
    scores = finite(attributions, "attributions", 2, "a matrix (rows, columns)")
    names = [
        [plain(word) for word in check_names(each, count, name, name[:-1])]
        for each, count, name in zip(
            (rows, columns), scores.shape, ("rows", "columns"), strict=True
        )
    ]
    limit = limit_of(scores, percentile)
    image = ax.imshow(scores, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
    ax.set_yticks(range(len(names[0])), names[0])
    ax.set_xticks(range(len(names[1])), names[1], rotation=45, ha="left", rotation_mode="anchor")
    ax.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
    for (row, column), value in np.ndenumerate(scores if digits is not None else np.zeros((0, 0))):
        written = f"{value:.{digits}f}".replace("-", "−")
        colour = ink(image.cmap(image.norm(value)))
        ax.text(column, row, written, ha="center", va="center", size="x-small", color=colour)
    if colorbar:
        color_bar(ax, image, fraction=0.046, pad=0.03)
    return ax


def curve(
    ax: Axes,
    alphas: Array,
    scores: Array,
    *,
    label: str | None = None,
    band: tuple[float, float] | None = (25.0, 75.0),
) -> Axes:
    """Draw scores against α: one curve, or the median of several with a band.

    Call it again with the same Axes to add another curve, in another colour.

    Args:
        ax: the matplotlib Axes to draw into.
        alphas: places α on the path, of shape (n,).
        scores: f(γ(α)), of shape (n,), or (curves, n), of which the median is drawn.
        label: the name of the curve in a legend.
        band: the two percentiles, over the curves, between which the band lies. None draws every
            curve as a thin line in place of the band.

    Returns:
        The same Axes.

    Raises:
        ValueError: for other shapes, values that are not finite, or percentiles that are not in
            order in [0, 100].

    Source:
        Sundararajan et al. 2016, "Gradients of Counterfactuals", figs. 2 and 8.

    Example:
        >>> import matplotlib.figure, numpy as np, xattr
        >>> ax = matplotlib.figure.Figure().add_subplot()
        >>> ax = xattr.plot.curve(ax, np.array([0.0, 0.5, 1.0]), np.array([[0.0, 0.8, 1.0]] * 3))
        >>> ax.lines[0].get_ydata()
        array([0. , 0.8, 1. ])
    """
    places = finite(alphas, "alphas", 1, "places on a path, of shape (n,)")
    values = finite(scores, "scores", np.ndim(scores), "curves")
    if values.ndim not in (1, 2) or values.shape[-1] != len(places):
        raise ValueError(
            f"`scores` must have shape ({len(places)},) or (curves, {len(places)}), as many as "
            f"`alphas`, but has shape {values.shape}"
        )
    if band is not None and not 0 <= band[0] <= band[1] <= 100:
        raise ValueError(f"`band` must be two percentiles in order, such as (25, 75), not {band}")
    (line,) = ax.plot(places, np.median(np.atleast_2d(values), axis=0), label=label)
    if band is None:
        ax.plot(places, np.atleast_2d(values).T, color=line.get_color(), linewidth=0.7, alpha=0.5)
    elif values.ndim == 2:
        low, high = np.percentile(values, band, axis=0)
        ax.fill_between(places, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    ax.set_xlabel("α")
    return ax
