"""Pictures: what is drawn, in which colours; Axes in, Axes out."""

import html.parser
import itertools
import re
import sys

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from xattr import plot
from xattr.plot import molecules
from xattr.plot.pictures import pixel_scores

MAP = np.zeros((4, 4, 3))
MAP[0, 0], MAP[1, 1] = [1, 2, 3], [-2, -1, 3]  # sums 6 and 0, absolute sums 6 and 6
MAP[3, 3] = -1


def axes(count=1):
    return matplotlib.figure.Figure().subplots(1, count)


def test_scores_are_signed_sums_or_sums_of_absolutes():
    assert pixel_scores(MAP)[[0, 1, 3], [0, 1, 3]].tolist() == [6, 0, -3]
    assert pixel_scores(MAP, "absolute")[[0, 1, 3], [0, 1, 3]].tolist() == [6, 6, 3]


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


WORDS = ["how", "many", "$5", "<b>", "_x"]
SCORES = [1.0, -2.0, 0.0, 0.5, -0.5]


def drawn(words, scores, size=(4, 1), **options):
    figure = matplotlib.figure.Figure(figsize=size)
    FigureCanvasAgg(figure)
    ax = plot.text(figure.add_axes((0.1, 0.0, 0.8, 1.0)), words, scores, **options)
    figure.draw_without_rendering()
    return ax


def places(ax):
    renderer = ax.figure.canvas.get_renderer()
    return [each.get_window_extent(renderer) for each in ax.texts]


def test_words_are_on_the_colour_of_their_score():
    ax = drawn(WORDS, SCORES)
    assert [each.get_text() for each in ax.texts] == ["how", "many", r"\$5", "<b>", "_x"]
    red, blue, white = (each.get_bbox_patch().get_facecolor() for each in ax.texts[:3])
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert min(white) > 0.95
    assert ax.texts[1].get_color() == "white"  # on dark blue
    assert ax.texts[0].get_color() == "black"
    assert max(blue[:2]) < 0.25  # the largest |score| has the end of the scale
    ends = drawn(WORDS, SCORES, limit=20.0).texts[1].get_bbox_patch().get_facecolor()
    assert min(ends) > 0.8
    assert len(drawn(WORDS, SCORES, colorbar=True).figure.axes) == 2


def test_a_long_text_is_wrapped_inside_the_axes_in_order():
    ax = drawn(WORDS * 12, SCORES * 12, size=(4, 3))
    boxes, outside = places(ax), ax.bbox
    lines = sorted({round(box.y0 + box.height / 2) // 12 for box in boxes})
    assert len(lines) > 2
    assert max(box.x1 for box in boxes) <= outside.x1 + 1
    assert min(box.y0 for box in boxes) >= outside.y0
    order = [(-round(each.get_position()[1]), each.get_position()[0]) for each in ax.texts]
    assert order == sorted(order)
    for left, right in itertools.pairwise(boxes):
        assert right.x0 > left.x1 or right.y1 < left.y1


def test_a_text_that_does_not_fit_becomes_smaller():
    low = drawn(WORDS * 12, SCORES * 12, size=(4, 1.2))
    high = drawn(WORDS * 12, SCORES * 12, size=(4, 4))
    assert low.texts[0].get_fontsize() < high.texts[0].get_fontsize() == 11
    assert min(box.y0 for box in places(low)) >= low.bbox.y0


class Page(html.parser.HTMLParser):
    """The text of a page and the titles of its spans; every element is closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.titles, self.data = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.titles += [value for name, value in attrs if name == "title"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.data.append(data)


def test_html_is_whole_escaped_and_has_a_legend():
    evil = "</span><script>alert(1)</script>"
    found = plot.html([*WORDS[:4], "überall", evil], [*SCORES, 1], title="<i>")
    assert found.isascii()
    assert found._repr_html_() == str(found)
    assert type(found._repr_html_()) is str
    page = Page(found)
    assert page.titles == ["1", "-2", "0", "0.5", "-0.5", "1"]
    shown = "".join(page.data)
    assert evil in shown
    assert "<i>" in shown
    assert "überall" in shown
    assert "script" not in re.sub("&lt;.*?&gt;", "", found)
    assert "−2 " in shown
    assert "linear-gradient" in found
    assert re.search("http|src=|href=", found) is None
    colours = re.findall("background:#(..)(..)(..)", found)
    assert colours[0][0] > colours[0][2]
    assert colours[1][2] > colours[1][0]


def test_a_matrix_has_names_and_values():
    ax = plot.matrix(axes(), [[1, -2.345], [0, 4]], ["Guten", "Morgen"], ["a", "b"], colorbar=True)
    assert [each.get_text() for each in ax.texts] == ["1.00", "−2.35", "0.00", "4.00"]
    assert [each.get_text() for each in ax.get_yticklabels()] == ["Guten", "Morgen"]
    assert [each.get_text() for each in ax.get_xticklabels()] == ["a", "b"]
    assert ax.images[0].get_clim() == (-4, 4)
    assert [each.get_position() for each in ax.texts[:2]] == [(0, 0), (1, 0)]
    assert len(ax.figure.axes) == 2
    assert not plot.matrix(axes(), np.eye(2), ["a", "b"], ["c", "d"], digits=None).texts


@pytest.mark.filterwarnings("error")
def test_words_are_no_mathematics_and_tabs_have_a_sign():
    words = ["$x_$", "$$", "a\tb", "c\r\nd"]
    ax = plot.matrix(axes(), np.eye(4), words, words)
    ax.figure.draw_without_rendering()  # "$$" is an error of matplotlib's mathematics
    assert [each.get_text() for each in ax.get_yticklabels()] == [
        r"\$x_\$", r"\$\$", "a⇥b", "c⏎d",
    ]  # fmt: skip
    assert [each.get_text() for each in drawn(words, np.ones(4)).texts][2:] == ["a⇥b", "c⏎d"]


def test_curves_have_a_median_and_a_band():
    alphas = np.linspace(0, 1, 3)
    scores = np.array([[0, 1, 2], [0, 2, 4], [0, 3, 12.0]])
    ax = plot.curve(axes(), alphas, scores, label="three", band=(0, 100))
    assert ax.lines[0].get_ydata().tolist() == [0, 2, 4]
    corners = ax.collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in corners} >= {(0.5, 1), (0.5, 3), (1, 2), (1, 12)}
    assert ax.get_legend_handles_labels()[1] == ["three"]
    plot.curve(ax, alphas, scores[2])
    assert ax.lines[1].get_ydata().tolist() == [0, 3, 12]
    assert ax.lines[1].get_color() != ax.lines[0].get_color()
    assert len(ax.collections) == 1
    assert len(plot.curve(axes(), alphas, scores, band=None).lines) == 4


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda ax: plot.text(ax, WORDS, SCORES[1:]), "`words` must be 4 names, one for each sco"),
        (lambda ax: plot.text(ax, "howmany", [1.0]), "is one text: split it"),
        (lambda ax: plot.text(ax, WORDS, [SCORES]), "`attributions` must be one score for each w"),
        (lambda ax: plot.html(WORDS, [np.inf] * 5), "`attributions` has values that are not"),
        (lambda ax: plot.html(WORDS, SCORES, limit=0), "`limit` must be above 0"),
        (lambda ax: plot.html(WORDS, SCORES, limit=np.inf), "`limit` must be above 0 and finite"),
        (lambda ax: plot.matrix(ax, np.eye(2), ["a"], ["b", "c"]), "`rows` must be 2 names"),
        (lambda ax: plot.matrix(ax, np.eye(2), ["a", "b"], ["c"]), "one for each column"),
        (lambda ax: plot.curve(ax, [0, 1], [1, 2, 3]), "`scores` must have shape (2,) or (curves"),
        (lambda ax: plot.curve(ax, [0, 1], [1, 2], band=(9, 3)), "`band` must be two percentiles"),
    ],
)
def test_bad_input_of_texts_and_charts(call, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        call(axes())


def test_a_molecule_has_a_colour_for_each_atom_and_bond():
    """Ethanol: the carbon 0 is red, the oxygen blue, and of the two bonds one is red."""
    atoms = np.array([[1.0, 1.0], [0.0, 0.0], [-2.0, 0.0], [0.0, 0.0]])  # the last is padding
    pairs, ends = np.array([1.0, 0.5, 4.0, 0.0]), np.array([[0, 1], [1, 0], [0, 2], [0, 0]])
    found = molecules._scores("CCO", atoms, pairs, ends, 100)
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
        (("", np.ones(0)), {}, "`molecule` has no atoms"),
    ],
)
def test_bad_molecules(arguments, options, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        plot.molecule(axes(), *arguments, **options)
