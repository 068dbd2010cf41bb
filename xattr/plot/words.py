"""The words of a text, each on the colour of its score: in matplotlib, and in HTML."""

import html as escaping
from collections.abc import Sequence
from typing import Any

import numpy as np

from xattr.plot.scales import (
    Axes,
    check_names,
    color_bar,
    finite,
    ink,
    limit_of,
    plain,
    signed_scale,
)
from xattr.types import Array

LINE = 1.75
"""The height of a line, in font sizes."""
SMALLEST = 5.0
"""The smallest font size, in points."""


def text(
    ax: Axes,
    words: Sequence[str],
    attributions: Array,
    *,
    percentile: float = 100.0,
    limit: float | None = None,
    size: float = 11.0,
    colorbar: bool = False,
) -> Axes:
    """Draw the words of a text, each on the colour of its score: red for positive, blue negative.

    The colours are on a scale that is symmetric about 0 and ends at the percentile of |score|. The
    text is wrapped at the width of the Axes, and is made smaller if it does not fit their height.

    Args:
        ax: the matplotlib Axes to draw into. Its frame is hidden; its title is yours.
        words: the words or tokens, in order.
        attributions: one score for each word, of shape (words,): see `xattr.tokens.per_token`.
        percentile: of |score|, above 0 and up to 100, where the colours end.
        limit: the |score| where the colours end, for one scale of several texts. None takes the
            percentile.
        size: the font size, in points.
        colorbar: whether to draw a colour bar below the text, in units of f.

    Returns:
        The same Axes. The words are its `texts`.

    Raises:
        ValueError: for another shape, values that are not finite, another number of words, or a
            percentile outside (0, 100].

    Source:
        Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", fig. 4 (words of a
        question in the colour of their attribution).

    Example:
        >>> import matplotlib.figure, xattr
        >>> ax = matplotlib.figure.Figure().add_subplot()
        >>> ax = xattr.plot.text(ax, ["how", "many", "townships"], [0.5, 0.4, -0.1])
        >>> [word.get_text() for word in ax.texts]
        ['how', 'many', 'townships']
    """
    words, scores, scale = _coloured(words, attributions, percentile, limit)
    ax.set_axis_off()
    for word, score in zip(words, scores, strict=True):
        colour = scale.to_rgba(score)
        box = {"boxstyle": "square,pad=0.12", "facecolor": colour, "edgecolor": "none"}
        ax.text(0, 0, plain(word), size=size, va="baseline", color=ink(colour), bbox=box)
    ax.add_artist(_flow(ax.texts[-len(words) :], size))
    if colorbar:
        place = {"orientation": "horizontal", "shrink": 0.4, "aspect": 40, "pad": 0.04}
        color_bar(ax, scale, **place)
    return ax


def _coloured(
    words: Sequence[str], attributions: Array, percentile: float, limit: float | None
) -> tuple[list[str], np.ndarray, Any]:
    """Return the words, their scores, and the scale of colours."""
    scores = finite(attributions, "attributions", 1, "one score for each word")
    names = check_names(words, len(scores), "words", "score")
    if limit is not None and not 0 < limit < np.inf:
        raise ValueError(f"`limit` must be above 0 and finite, not {limit!r}")
    scale = signed_scale(limit_of(scores, percentile) if limit is None else limit)
    return names, scores, scale


def _flow(texts: Sequence[Any], size: float) -> Any:
    """Return an artist that puts texts side by side in lines, each time the figure is drawn.

    The width of the Axes and of each word is known only then.
    """
    from matplotlib.artist import Artist
    from matplotlib.transforms import IdentityTransform

    class Flow(Artist):
        zorder = 0  # it is drawn before the texts

        def draw(self, renderer: Any) -> None:
            for each in texts:
                each.set_transform(IdentityTransform())
            box, chosen = texts[0].axes.bbox, size
            while True:
                lines = self._lines(renderer, box.width, chosen)
                step = LINE * renderer.points_to_pixels(chosen)
                if len(lines) * step <= box.height or chosen <= SMALLEST:
                    break
                chosen = max(SMALLEST, 0.93 * chosen)
            for n, line in enumerate(lines):
                for each, x in line:
                    each.set_position((box.x0 + x, box.y1 - (n + 0.75) * step))

        def _lines(self, renderer: Any, width: float, size: float) -> list[list[tuple[Any, float]]]:
            """Return the texts of each line, each with the place where it begins."""
            lines: list[list[tuple[Any, float]]] = [[]]
            gap, x = 0.5 * renderer.points_to_pixels(size), 0.0
            for each in texts:
                each.set_fontsize(size)
                length = each.get_window_extent(renderer).width  # without its box
                if lines[-1] and x + length > width:
                    lines.append([])
                    x = 0.0
                lines[-1].append((each, x))
                x += length + gap
            return lines

    return Flow()


class Html(str):
    """HTML that a notebook shows as it is."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)


def html(
    words: Sequence[str],
    attributions: Array,
    *,
    percentile: float = 100.0,
    limit: float | None = None,
    title: str | None = None,
) -> Html:
    """Return the words of a text as HTML, each on the colour of its score, with a legend.

    The colours are those of `xattr.plot.text`. The HTML needs no other file. A notebook shows it,
    and the score of a word where the pointer rests. Words are escaped: text that looks like HTML is
    shown as text.

    Args:
        words: the words or tokens, in order.
        attributions: one score for each word, of shape (words,).
        percentile: of |score|, above 0 and up to 100, where the colours end.
        limit: the |score| where the colours end, for one scale of several texts. None takes the
            percentile.
        title: a line above the text.

    Returns:
        A string of HTML, which a notebook displays.

    Raises:
        ValueError: for another shape, values that are not finite, another number of words, or a
            percentile outside (0, 100].

    Source:
        Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", fig. 4.

    Example:
        >>> import xattr
        >>> page = xattr.plot.html(["a", "<b>"], [1.0, -0.5])
        >>> "&lt;b&gt;" in page, "<b>" in page
        (True, False)
    """
    words, scores, scale = _coloured(words, attributions, percentile, limit)
    spans = [
        f'<span title="{score:.4g}" style="{_style(scale, score)}">{escaping.escape(word)}</span>'
        for word, score in zip(words, scores, strict=True)
    ]
    head = "" if title is None else f"<div><b>{escaping.escape(title)}</b></div>"
    body = " ".join(spans)
    outside = "font-family:sans-serif;line-height:1.9;max-width:60em;color:black;background:white"
    page = f'<div style="{outside}">{head}<div>{body}</div>{_legend(scale)}</div>'
    # ASCII alone, so that it is right in a file of any encoding.
    return Html(page.encode("ascii", "xmlcharrefreplace").decode("ascii"))


def _style(scale: Any, score: float) -> str:
    colour = scale.to_rgba(score)
    return f"background:{_hex(colour)};color:{ink(colour)};padding:.1em .2em;border-radius:.2em"


def _hex(colour: Any) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour[:3])


def _legend(scale: Any) -> str:
    """Return a bar of the colours with both ends and zero."""
    limit = scale.norm.vmax
    stops = ",".join(_hex(scale.to_rgba(part * limit)) for part in np.linspace(-1, 1, 9))
    bar = (
        f"display:inline-block;width:12em;height:.8em;background:linear-gradient(to right,{stops})"
    )
    ends = (f"{-limit:.3g}".replace("-", "−"), f"{limit:.3g}")
    return (
        f'<div style="font-size:smaller">{ends[0]} <span style="{bar}"></span> {ends[1]}'
        " (attribution of a word)</div>"
    )
