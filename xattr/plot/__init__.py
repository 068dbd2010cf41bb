"""Drawings of attributions: pictures, texts, molecules, matrices and curves.

Most are drawn into the matplotlib Axes that you pass. `matplotlib` is imported when something is
drawn, not with the package.
"""

from xattr.plot.charts import curve, matrix
from xattr.plot.molecules import molecule, molecule_svg
from xattr.plot.pictures import heatmap, overlay, panel, signed_channels
from xattr.plot.words import Html, html, text

__all__ = [
    "Html",
    "curve",
    "heatmap",
    "html",
    "matrix",
    "molecule",
    "molecule_svg",
    "overlay",
    "panel",
    "signed_channels",
    "text",
]
