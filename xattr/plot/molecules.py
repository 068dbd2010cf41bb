"""Attributions on the drawing of a molecule, by RDKit.

RDKit is imported when a molecule is drawn. It comes with `pip install 'xattr-jax[molecules]'`.
"""

import io
from typing import Any, NamedTuple

import numpy as np

from xattr.plot.scales import DIVERGING, Axes
from xattr.types import Array

RADIUS = 0.45
"""Of the disc behind an atom; a bond is about 1.5 long."""
BOND_WIDTH = 12
"""Of a coloured bond, in widths of its line."""


class Scores(NamedTuple):
    """What is drawn: one score for each atom, for each bond, and where the colours end."""

    molecule: Any
    atoms: np.ndarray
    bonds: dict[int, float]
    limit: float

    def colour(self, score: float) -> tuple[float, ...]:
        """Return red for positive, blue for negative and white for zero, as (R, G, B)."""
        share = 0.5 + 0.5 * float(np.clip(score / self.limit, -1, 1))
        return tuple(float(c) for c in _colours()(share)[:3])


def _colours() -> Any:
    """Return the colours of `heatmap` without the darkest ones, which would hide the letters."""
    import matplotlib as mpl
    from matplotlib import colors

    kept = mpl.colormaps[DIVERGING](np.linspace(0.12, 0.88, 256))
    return colors.ListedColormap(kept)


def molecule(
    ax: Axes,
    molecule: Any,
    attributions: Array,
    *,
    pairs: Array | None = None,
    ends: Array | None = None,
    percentile: float = 100.0,
    numbers: bool = False,
    colorbar: bool = False,
    size: tuple[int, int] = (640, 480),
) -> Axes:
    """Draw the scores of atoms and bonds on a molecule: red positive, blue negative, white zero.

    score = Σ_c A_c over the features of an atom or a pair. Atoms and bonds have one scale, which is
    symmetric about 0. Pairs without a bond have no line to be drawn on; an atom × atom matrix for
    `heatmap` shows them.

    The features of a graph are the floats x that a method attributes, and its whole numbers go into
    `args`: `f({"atoms": …, "pairs": …}, ends, params)`. The baseline is all features zero.

    Args:
        ax: the matplotlib Axes to draw into.
        molecule: a molecule of RDKit, or a SMILES string.
        attributions: of the atoms, (N,) or (N, features), in RDKit's order. Atoms of padding may
            follow, if they have attribution 0.
        pairs: of pairs of atoms, (M,) or (M, features). Several rows of one bond add up.
        ends: the two atoms of each pair, (M, 2); needed with `pairs`.
        percentile: of |score|, above 0 and up to 100, where the colours end.
        numbers: whether to write the number of each atom beside it.
        colorbar: whether to draw a colour bar, in units of f.
        size: width and height of the drawing in pixels.

    Returns:
        The same Axes.

    Raises:
        ValueError: for another shape, values that are not finite, padding with attribution, ends
            that are not atoms, a text that is not a molecule, or a percentile outside (0, 100].
        ImportError: if RDKit is not installed.

    Source:
        Sundararajan et al. 2016, fig. 7; McCloskey et al. 2019, fig. 1 (the colours).

    Example:
        >>> import jax.numpy as jnp, matplotlib.figure, xattr
        >>> def f(x, ends, weights):  # a score for "carbonyl": a carbon with a double-bonded oxygen
        ...     carbon, oxygen = x["atoms"][ends[:, 0], 0], x["atoms"][ends[:, 1], 1]
        ...     return jnp.sum(carbon * oxygen * (x["pairs"] @ weights))
        >>> atoms = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # of CC=O: C, C, O
        >>> pairs, ends = jnp.eye(2), jnp.array([[0, 1], [1, 2]])  # a single and a double bond
        >>> x = {"atoms": atoms, "pairs": pairs}
        >>> found = xattr.integrated_gradients(f, x, args=(ends, jnp.array([0.0, 3.0])))
        >>> found["atoms"].sum(axis=1).round(4), found["pairs"].sum(axis=1).round(4)
        (Array([0., 1., 1.], dtype=float32), Array([0., 1.], dtype=float32))
        >>> ax = matplotlib.figure.Figure().add_subplot()
        >>> ax = molecule(ax, "CC=O", found["atoms"], pairs=found["pairs"], ends=ends)
        >>> len(ax.images)
        1
    """
    import matplotlib as mpl
    from matplotlib import cm, colors

    scores = _scores(molecule, attributions, pairs, ends, percentile)
    drawn = _draw(scores, "MolDraw2DCairo", size, numbers)
    picture = mpl.image.imread(io.BytesIO(drawn), format="png")
    ax.imshow(picture, interpolation="antialiased")
    ax.set_axis_off()
    if colorbar:
        norm = colors.Normalize(-scores.limit, scores.limit)
        bar = ax.figure.colorbar(
            cm.ScalarMappable(norm, _colours()), ax=ax, fraction=0.046, pad=0.03
        )
        bar.ax.tick_params(labelsize="x-small")
        bar.ax.ticklabel_format(axis="y", scilimits=(-2, 3))
    return ax


def molecule_svg(
    molecule: Any,
    attributions: Array,
    *,
    pairs: Array | None = None,
    ends: Array | None = None,
    percentile: float = 100.0,
    numbers: bool = False,
    size: tuple[int, int] = (480, 360),
) -> str:
    """Return the drawing of `molecule` as SVG, for a page or a notebook.

    score = Σ_c A_c over the features of an atom or a pair.

    Args:
        molecule: a molecule of RDKit, or a SMILES string.
        attributions: of the atoms, (N,) or (N, features), see `molecule`.
        pairs: of pairs of atoms, (M,) or (M, features).
        ends: the two atoms of each pair, (M, 2); needed with `pairs`.
        percentile: of |score|, above 0 and up to 100, where the colours end.
        numbers: whether to write the number of each atom beside it.
        size: width and height of the drawing in pixels.

    Returns:
        The text of the SVG.

    Raises:
        ValueError: as `molecule`.
        ImportError: if RDKit is not installed.

    Source:
        Sundararajan et al. 2016, fig. 7; McCloskey et al. 2019, fig. 1 (the colours).

    Example:
        >>> import numpy as np
        >>> "<svg" in molecule_svg("CC=O", np.array([0.0, 1.0, -1.0]))
        True
    """
    scores = _scores(molecule, attributions, pairs, ends, percentile)
    return str(_draw(scores, "MolDraw2DSVG", size, numbers))


def _scores(molecule: Any, attributions: Any, pairs: Any, ends: Any, percentile: float) -> Scores:
    """Check the arguments, and return one score for each atom and each bond."""
    if not 0 < percentile <= 100:
        raise ValueError(f"`percentile` must lie above 0 and up to 100, not {percentile!r}")
    found = _read(molecule)
    count = found.GetNumAtoms()
    if not count:
        raise ValueError("`molecule` has no atoms: there is nothing to draw")
    atoms = _rows(attributions, "attributions")
    if len(atoms) < count or np.any(atoms[count:] != 0):
        raise ValueError(
            f"`attributions` are those of {len(atoms)} atoms, but `molecule` has {count}: pass one "
            "row for each atom, in RDKit's order; what is beyond must be padding with 0"
        )
    bonds = _of_bonds(found, pairs, ends)
    sizes = np.abs([*atoms[:count], *bonds.values()])
    limit = np.percentile(sizes, percentile) or sizes.max(initial=0) or 1.0
    return Scores(found, atoms[:count], bonds, float(limit))


def _of_bonds(molecule: Any, pairs: Any, ends: Any) -> dict[int, float]:
    """Return the sum of the scores of each bond, by its number in RDKit."""
    if (pairs is None) != (ends is None):
        raise ValueError("`pairs` and `ends` go together: the scores of pairs, and their atoms")
    if pairs is None:
        return {}
    scores, places = _rows(pairs, "pairs"), np.asarray(ends)
    if places.shape != (len(scores), 2):
        raise ValueError(f"`ends` must have shape ({len(scores)}, 2), but has {places.shape}")
    bonds = {bond.GetIdx(): 0.0 for bond in molecule.GetBonds()}
    for score, (first, second) in zip(scores, places.tolist(), strict=True):
        if score == 0:  # also of padding, whose ends mean nothing
            continue
        if not 0 <= min(first, second) <= max(first, second) < molecule.GetNumAtoms():
            raise ValueError(f"`ends` has the pair {first}, {second}, which are no atoms")
        bond = molecule.GetBondBetweenAtoms(first, second)
        if bond is not None:
            bonds[bond.GetIdx()] += float(score)
    return bonds


def _rows(values: Any, name: str) -> np.ndarray:
    """Return the sum of each row, in float64."""
    array = np.asarray(values).astype(np.float64)
    if array.ndim not in (1, 2):
        raise ValueError(
            f"`{name}` must have shape (N,) or (N, features), but has {array.shape}: draw one "
            "molecule at a time"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` has values that are not finite: look for NaN in f")
    return array if array.ndim == 1 else array.sum(axis=1)


def _read(molecule: Any) -> Any:
    """Return a molecule of RDKit."""
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise ImportError(
            "`xattr.plot.molecule` draws with RDKit, which is not installed: "
            "pip install 'xattr-jax[molecules]'"
        ) from error
    if not isinstance(molecule, str):
        return molecule
    with rdBase.BlockLogs():
        found = Chem.MolFromSmiles(molecule)
    if found is None:
        raise ValueError(f"`molecule` {molecule!r} is not a SMILES string that RDKit can read")
    return found


def _draw(scores: Scores, kind: str, size: tuple[int, int], numbers: bool) -> Any:
    """Return the drawing as RDKit's drawer of this kind writes it."""
    from rdkit.Chem.Draw import rdMolDraw2D

    drawer = getattr(rdMolDraw2D, kind)(*size)
    options = drawer.drawOptions()
    options.useBWAtomPalette()
    options.addAtomIndices = numbers
    options.highlightBondWidthMultiplier = BOND_WIDTH
    options.setBackgroundColour((1, 1, 1, 1))
    atoms = {i: scores.colour(score) for i, score in enumerate(scores.atoms)}
    bonds = {number: scores.colour(score) for number, score in scores.bonds.items()}
    rdMolDraw2D.PrepareAndDrawMolecule(
        drawer,
        scores.molecule,
        highlightAtoms=[*atoms],
        highlightBonds=[*bonds],
        highlightAtomColors=atoms,
        highlightBondColors=bonds,
        highlightAtomRadii=dict.fromkeys(atoms, RADIUS),
    )
    drawer.FinishDrawing()
    return drawer.GetDrawingText()
