"""What all drawings share: where the colours end, and colours that can be read."""

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
else:
    Axes: TypeAlias = Any

DIVERGING = "RdBu_r"
"""The colours of signed scores: red for positive, blue for negative, white for zero."""


def limit_of(score: np.ndarray, percentile: float) -> float:
    """Return the percentile of |score|; the largest |score| if that is 0, else 1."""
    if not 0 < percentile <= 100:
        raise ValueError(f"`percentile` must lie above 0 and up to 100, not {percentile!r}")
    size = np.abs(score)
    return float(np.percentile(size, percentile) or size.max() or 1.0)


def bare(ax: Axes) -> Axes:
    """Take the ticks away."""
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def signed_scale(limit: float) -> Any:
    """Return what maps scores from −limit to limit to diverging colours."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(-limit, limit, clip=True), DIVERGING)


def ink(colour: Any) -> str:
    """Return the colour of writing on a background: black, or white where that is dark."""
    return "black" if np.dot(colour[:3], (0.299, 0.587, 0.114)) > 0.5 else "white"


def color_bar(ax: Axes, image: Any, **options: Any) -> None:
    """Draw a colour bar beside the Axes, in units of f."""
    bar = ax.figure.colorbar(image, ax=ax, **options)
    bar.ax.tick_params(labelsize="x-small")
    bar.ax.ticklabel_format(axis="both", scilimits=(-2, 3))


def finite(values: Any, name: str, ndim: int, form: str) -> np.ndarray:
    """Return an array in float64; raise unless it has so many axes and is finite."""
    array = np.asarray(values).astype(np.float64)
    if array.ndim != ndim or not array.size:
        raise ValueError(f"`{name}` must be {form}, but has shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` has values that are not finite: look for NaN in f")
    return array


def check_names(names: Any, count: int, name: str, what: str) -> list[str]:
    """Return names as a list of text; raise unless there are so many."""
    found = [str(each) for each in names]
    if isinstance(names, str) or len(found) != count:
        raise ValueError(
            f"`{name}` must be {count} names, one for each {what}, but is "
            + ("one text: split it" if isinstance(names, str) else f"{len(found)}")
        )
    return found


def plain(word: str) -> str:
    """Keep matplotlib from reading dollars as mathematics, and line ends and tabs as layout."""
    for sign, shown in (("$", r"\$"), ("\r\n", "⏎"), ("\n", "⏎"), ("\r", "⏎"), ("\t", "⇥")):
        word = word.replace(sign, shown)
    return word or " "
