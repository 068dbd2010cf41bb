"""What experiments on photographs measure, by hand-worked answers, and what they keep."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from paper_repro.data.imagenet import Photograph
from paper_repro.experiments import ablation, aopc, ig_gallery, maps, misclassified, saturation
from paper_repro.experiments.maps import Scene
from paper_repro.networks import efficientnet
from paper_repro.report.results import Setting


def photograph(name="a", *, label=0, boxes=((1, 0, 3, 2),), size=4, is_free=True):
    image = np.random.default_rng(len(name)).random((size, size, 3), np.float32)
    return Photograph(name, image, label, np.array(boxes, float).reshape(-1, 4), is_free)


@pytest.fixture
def scene(monkeypatch, tmp_path):
    monkeypatch.setenv("XATTR_CACHE", str(tmp_path))
    photographs = [photograph("a" * n, label=n % 2) for n in range(1, 8)]
    logits = np.eye(7, 1000) * 5
    return Scene(Setting(progress=False), {"w": jnp.float32(2)}, photographs, logits, [])


CALLS = []


def doubled(image, params):
    CALLS.append(image.shape)
    return {"sum": params["w"] * image.sum(), "image": image}


def test_what_is_computed_is_kept_and_is_that_of_each_photograph(scene, tmp_path):
    CALLS.clear()
    found = maps.computed(scene, "twice", doubled, scene.images)
    np.testing.assert_array_equal(found["image"], scene.images)
    np.testing.assert_allclose(found["sum"], 2 * scene.images.sum((1, 2, 3)), rtol=1e-6)
    traced = len(CALLS)
    assert traced >= 1
    again = maps.computed(scene, "twice", doubled, scene.images)
    np.testing.assert_array_equal(again["sum"], found["sum"])
    assert len(CALLS) == traced  # from the files
    assert len(list((tmp_path / "computed").iterdir())) == 1
    maps.computed(scene, "twice", doubled, scene.images + 1)
    assert len(list((tmp_path / "computed").iterdir())) == 2  # other operands, another folder


def shifted(by, image, params):
    return image.sum() + by


def test_comments_and_docstrings_decide_nothing(tmp_path):
    texts = ['x = 1  # one\n"""A string."""\n', "x = 1\n'Other.'\n", "x = 2\n'Other.'\n"]
    files = [tmp_path / f"{n}.py" for n in range(3)]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    one, same, other = map(maps._code_of, files)
    assert one == same != other


def test_options_of_a_function_have_folders_of_their_own(scene):
    one, two = (
        maps.computed(scene, "shifted", functools.partial(shifted, by), scene.images)
        for by in (1.0, 2.0)
    )
    np.testing.assert_allclose(two - one, 1, rtol=1e-4)


def test_pixel_scores_and_their_order():
    attributions = np.array([[[1.0, -2.0], [0.5, 0.0]], [[0.0, 0.0], [-4.0, 1.0]]])
    scores = maps.pixel_scores(attributions)
    assert scores.tolist() == [[3.0, 0.5], [0.0, 5.0]]
    assert maps.most_relevant(scores).tolist() == [3, 0, 1, 2]
    assert maps.inside(scores, np.array([[True, False], [True, False]])) == pytest.approx(3 / 8.5)


def test_a_map_is_scaled_by_the_mass_of_its_scores():
    """The authors' LinearTransform: 99.9 and 70 are percentages of the sum, from the top."""
    scores = np.array([[4.0, 3.0], [2.0, 1.0]])
    # The first reaches .1 % of 10, and the first again reaches 30 %.
    np.testing.assert_allclose(maps.scaled(scores), [[0.2, 0], [0, 0]])
    scores = np.array([[2.0, 1.5, 1.0], [1.0, 1.0, 1.0]])  # 30 % of 7.5 is 2.25: two pixels
    np.testing.assert_allclose(maps.scaled(scores), [[1, 0.2, 0], [0, 0, 0]])
    many = np.linspace(0, 1, 10_000).reshape(100, 100)
    shown = maps.scaled(many)
    kept = many[shown > 0]
    assert kept.sum() / many.sum() == pytest.approx(0.3, abs=0.01)
    assert many[shown == 1].sum() / many.sum() == pytest.approx(0.001, abs=1e-3)


def test_aopc_is_the_mean_drop_up_to_a_step():
    """f = 4, 3, 1, 0: drops 0, 1, 3, 4; their means 0, 1/2, 4/3, 2 (Samek et al., 1/(L + 1))."""
    found = aopc.aopc(np.array([[4.0, 3.0, 1.0, 0.0]]))
    np.testing.assert_allclose(found, [[0, 1 / 2, 4 / 3, 2]])


def test_a_step_blacks_out_the_next_hundred_pixels(monkeypatch):
    """A network that sums the picture loses what the order says, and nothing more."""
    monkeypatch.setattr(
        efficientnet, "network", lambda image, params, variant: image.sum() * jnp.eye(1000)[3]
    )
    image = np.random.default_rng(0).random((100, 100, 3)).astype(np.float32)
    order = np.random.default_rng(1).permutation(10_000)[:5_000].astype(np.int32)
    logits = aopc._perturbed("lite0", jnp.array(image), 3, jnp.array(order), None)["logit"]
    flat = image.reshape(-1, 3).sum(1)
    expected = [flat.sum() - flat[order[: 100 * k]].sum() for k in range(51)]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)


def test_flat_curves():
    alphas = saturation.ALPHAS
    early, late = np.where(alphas < 0.19, 0, 1.0), alphas * 1.0
    found = saturation._flat(np.stack([early, late]))
    assert found == {"0.2": 0.5, "0.4": 0.5, "0.6": 0.5}


def test_ablated_pixels_lie_where_they_should_and_are_as_many():
    inside = np.zeros((1, 4, 4), bool)
    inside[0, :2] = True
    scores = np.arange(16.0).reshape(1, 4, 4)
    gone = ~ablation._masks(scores, inside, [3], "IG, inside")
    assert gone[0].ravel().nonzero()[0].tolist() == [5, 6, 7]
    gone = ~ablation._masks(scores, inside, [3], "gradient, outside")
    assert gone[0].ravel().nonzero()[0].tolist() == [13, 14, 15]


def test_rank_of_the_label(scene):
    """Photograph n has its logit at class n; its label is 1 or 0."""
    ranks = misclassified._ranks(scene)
    assert ranks.tolist() == [1, 1, 1, 1, 1, 1, 1]
    right = scene._replace(logits=np.eye(7, 1000)[[1, 0, 1, 0, 1, 0, 1]])
    assert misclassified._ranks(right).tolist() == [0] * 7


def test_a_photograph_that_is_not_free_is_not_drawn():
    for is_free in (True, False):
        ax = Figure().subplots()
        shown = photograph(is_free=is_free)
        maps.draw_picture(ax, shown)
        drawn = np.asarray(ax.images[0].get_array())
        assert (drawn == shown.image).all() == is_free
        assert len(ax.patches) == 1


@pytest.mark.parametrize("variant", efficientnet.VARIANTS)
def test_gradients_taken_together_fit_in_memory(variant):
    assert 1 <= maps.together(variant) <= 4


def test_layers_of_saturation_are_those_of_the_network():
    assert list(saturation.layers_of("lite0")) == ["block 2", "block 4", "block 10", "head"]
    for variant in efficientnet.VARIANTS:
        assert len(saturation.layers_of(variant)) == 4


def test_a_photograph_without_boxes_has_no_share_inside_them(scene):
    """As the astronaut of the gallery."""
    photographs = [photograph("one", boxes=[(0, 0, 2, 4)]), photograph("two", boxes=[])]
    pair = scene._replace(photographs=photographs, logits=scene.logits[:2], names=["c"] * 1000)
    flat, left = np.ones((4, 4)), np.eye(4)[[0] * 4]
    shares = {
        "integrated gradients": ig_gallery._shares(pair, np.stack([flat, flat])),
        "gradient": ig_gallery._shares(pair, np.stack([left, left])),
    }
    np.testing.assert_array_equal(shares["integrated gradients"], [0.5, np.nan])
    np.testing.assert_array_equal(shares["gradient"], [1, np.nan])
    rows = ig_gallery._table(pair, shares).rows
    assert [row[3:] for row in rows] == [["50 %", "100 %"], ["no box", "no box"]]
