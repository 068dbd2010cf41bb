"""Pictures: what is drawn, in which colours; Axes in, Axes out."""

import re
import sys

import matplotlib.figure
import numpy as np
import pytest

from xattr import _molecule_plot, plot

MAP = np.zeros((4, 4, 3))
MAP[0, 0], MAP[1, 1] = [1, 2, 3], [-2, -1, 3]  # sums 6 and 0, absolute sums 6 and 6
MAP[3, 3] = -1


def axes(count=1):
    return matplotlib.figure.Figure().subplots(1, count)


def test_scores_are_signed_sums_or_sums_of_absolutes():
    assert plot.pixel_scores(MAP)[[0, 1, 3], [0, 1, 3]].tolist() == [6, 0, -3]
    assert plot.pixel_scores(MAP, "absolute")[[0, 1, 3], [0, 1, 3]].tolist() == [6, 6, 3]


def test_heatmap_is_symmetric_with_red_for_positive():
    ax = plot.heatmap(axes(), MAP, percentile=100)
    (image,) = ax.images
    assert image.get_clim() == (-6, 6)
    red, blue, white = (image.cmap(image.norm(v)) for v in (6.0, -6.0, 0.0))
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert min(white) > 0.95


def test_absolute_heatmap_starts_at_zero():
    ax = plot.heatmap(axes(), MAP, channels="absolute", percentile=100, colorbar=True)
    assert ax.images[0].get_clim() == (0, 6)
    assert len(ax.figure.axes) == 2


def test_percentile_clips_outliers():
    values = np.ones((10, 10))
    values[0, 0] = 1000
    assert plot.heatmap(axes(), values, percentile=90).images[0].get_clim()[1] == pytest.approx(1)


def test_overlay_shows_the_image_where_nothing_is_attributed():
    ax = plot.overlay(axes(), np.ones((4, 4, 3)) * 0.5, MAP, percentile=100)
    grey, scores = ax.images
    assert grey.get_array()[0, 0] == pytest.approx(0.5)
    assert scores.get_alpha()[[0, 1, 3], [0, 1, 3]].tolist() == [1, 0, 0.5]


def test_signed_channels_are_green_and_red_with_the_sum():
    ax = plot.signed_channels(axes(), MAP)
    picture = ax.images[0].get_array()
    assert picture[0, 0].tolist() == [0, 1, 0]
    assert picture[3, 3].tolist() == [0.5, 0, 0]
    assert ax.get_xlabel() == "Σ = 3"


def test_panel_draws_every_map_and_hides_what_is_left():
    grid = matplotlib.figure.Figure().subplots(2, 2)
    drawn = plot.panel(grid, np.ones((4, 4)), {"a": MAP, "b": -MAP}, title="photo")
    assert [ax.get_title() for ax in drawn] == ["photo", "a", "b", ""]
    assert [ax.get_visible() for ax in drawn] == [True, True, True, False]
    assert [len(ax.images) for ax in drawn] == [1, 1, 1, 0]


def test_a_map_of_zeros_can_be_drawn():
    for draw in (plot.heatmap, plot.signed_channels):
        assert len(draw(axes(), np.zeros((3, 3))).images) == 1


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda ax: plot.heatmap(ax, np.ones(4)), "`attributions` must be a map (H, W)"),
        (lambda ax: plot.heatmap(ax, np.full((2, 2), np.nan)), "`attributions` has values that"),
        (lambda ax: plot.heatmap(ax, MAP, channels="max"), "`channels` must be 'sum' or 'abs"),
        (lambda ax: plot.heatmap(ax, MAP, percentile=0), "`percentile` must lie above 0"),
        (lambda ax: plot.overlay(ax, np.ones((5, 4)), MAP), "`attributions` are (4, 4) pixels"),
        (lambda ax: plot.overlay(ax, np.ones((3, 4, 4)), MAP), "`image` must have shape (H, W)"),
        (lambda ax: plot.overlay(ax, 255 * np.ones((4, 4)), MAP), "`image` must have values in [0"),
        (lambda ax: plot.panel([ax], np.ones((4, 4)), {"a": MAP}), "`axes` has 1 axes"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        call(axes())


def test_a_molecule_has_a_colour_for_each_atom_and_bond():
    """Ethanol: the carbon 0 is red, the oxygen blue, and of the two bonds one is red."""
    atoms = np.array([[1.0, 1.0], [0.0, 0.0], [-2.0, 0.0], [0.0, 0.0]])  # the last is padding
    pairs, ends = np.array([1.0, 0.5, 4.0, 0.0]), np.array([[0, 1], [1, 0], [0, 2], [0, 0]])
    found = _molecule_plot._scores("CCO", atoms, pairs, ends, 100)
    assert found.atoms.tolist() == [2, 0, -2]
    assert found.bonds == {0: 1.5, 1: 0}  # 0 and 2 are not bonded
    assert found.limit == 2
    red, white, blue = (found.colour(score) for score in (2.0, 0.0, -2.0))
    assert red[0] > red[2] + 0.3
    assert blue[2] > blue[0] + 0.3
    assert min(white) > 0.95
    text = plot.molecule_svg("CCO", atoms, pairs=pairs, ends=ends)  # RDKit cuts decimals off
    fills = {f"#{''.join(f'{int(255 * c + 1e-6):02X}' for c in colour)}" for colour in (red, blue)}
    assert all(fill in text for fill in fills)


def test_a_molecule_is_drawn_into_axes():
    ax = plot.molecule(axes(), "CCO", np.array([1.0, 0.0, -3.0]), colorbar=True, size=(200, 100))
    (image,) = ax.images
    assert image.get_array().shape[:2] == (100, 200)
    red, _, blue = np.moveaxis(image.get_array()[..., :3], -1, 0)
    assert (red > blue + 0.1).any()
    assert (blue > red + 0.4).any()
    assert ax.figure.axes[1].get_ylim() == (-3, 3)
    assert plot.molecule_svg("CCO", np.zeros(3)) != plot.molecule_svg("CCO", np.ones(3))
    numbered = plot.molecule_svg("CCO", np.zeros(3), numbers=True)
    assert len(numbered) > len(plot.molecule_svg("CCO", np.zeros(3)))


def test_drawing_a_molecule_needs_rdkit(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'xattr-jax[molecules]'")):
        plot.molecule(axes(), "CCO", np.zeros(3))


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        (("CCO", np.ones(2)), {}, "`attributions` are those of 2 atoms, but `molecule` has 3"),
        (("CCO", np.ones(4)), {}, "what is beyond must be padding with 0"),
        (("CCO", np.ones((1, 3, 2))), {}, "`attributions` must have shape (N,)"),
        (("CCO", np.full(3, np.inf)), {}, "`attributions` has values that are not finite"),
        (("not a molecule", np.ones(3)), {}, "`molecule` 'not a molecule' is not a SMILES"),
        (("CCO", np.ones(3)), {"pairs": np.ones(1)}, "`pairs` and `ends` go together"),
        (("CCO", np.ones(3)), {"pairs": np.ones(1), "ends": [0, 1]}, "`ends` must have shape (1,"),
        (("CCO", np.ones(3)), {"pairs": np.ones(1), "ends": [[0, 3]]}, "`ends` has the pair 0, 3"),
        (("CCO", np.ones(3)), {"percentile": 0}, "`percentile` must lie above 0"),
    ],
)
def test_bad_molecules(arguments, options, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        plot.molecule(axes(), *arguments, **options)
