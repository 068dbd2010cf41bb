"""Pictures, scales and measures of the benchmark with pasted digits, by hand-worked answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paper_repro.experiments import bam, pasted
from paper_repro.report.results import Setting


@pytest.fixture(autouse=True)
def standard_promotion():
    """Adam of optax takes a power of mixed dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def pictures():
    return pasted.pictures(Setting(progress=False), 64, 40)


def test_pictures_differ_from_their_scenes_in_the_digit_alone(pictures):
    for part in pictures:
        changed = np.abs(part.images - part.scenes)[..., 0]
        assert (changed[~part.masks] <= 0.3).all()
        assert (changed[part.masks].mean() > 0.2).all()
        assert part.images.min() >= 0
        assert part.images.max() <= 1
        assert set(part.objects) <= set(range(8))
        assert set(part.places) <= set(range(8))


def test_the_same_seed_draws_the_same_pictures(pictures):
    again = pasted.pictures(Setting(progress=False), 64, 40)
    np.testing.assert_array_equal(again[1].images, pictures[1].images)


def test_scale_by_hand():
    maps = np.full((1, 10, 10), -5.0)
    maps[0, 0, :4] = [1, 2, 4, 4]
    expected = np.zeros((10, 10))
    expected[0, :4] = [0.25, 0.5, 1, 1]
    np.testing.assert_allclose(bam.scaled(maps)[0], expected)
    assert not bam.scaled(np.full((1, 3, 3), 7.0)).any()
    mask = np.zeros((1, 10, 10), bool)
    mask[0, 0, :3] = True
    assert bam.on_object(maps, mask) == pytest.approx([1.75 / 3])


def test_measures_by_hand():
    """The object fills the left column; a map is its value there, and 1 in a pixel beside it."""

    def maps(*values):
        found = np.zeros((len(values), 12, 12))
        found[:, :, 0] = np.array(values)[:, None]
        found[:, :, 1] = 1
        return found

    masks = np.zeros((3, 12, 12), bool)
    masks[:, :, 0] = True
    measured = bam._measured(
        {
            "object, whole": maps(0.9, 0.5, 0.0),
            "scene, whole": maps(0.2, 0.5, 0.5),
            "scene, without": maps(0.3, 0.5, 0.4),
            "scene only, without": maps(0.5, 0.5, 0.0),
            "scene only, patched": maps(0.54, 0.56, 0.0),
        },
        masks,
    )
    np.testing.assert_allclose(measured["MCS"], [0.7, 0, -0.5])
    np.testing.assert_array_equal(measured["IDR"], [1, 0, 0])
    np.testing.assert_array_equal(measured["IIR"], [1, 0, 0])


def test_an_insignificant_digit_stays_on_its_pixels_and_keeps_the_logits(pictures):
    part = pasted.Pictures(*(each[:4] for each in pictures[1]))
    params = pasted.Net().init(jax.random.key(0), jnp.zeros((32, 32, 1)))["params"]
    # As large logits as those of a trained network, beside which |δ| counts for little.
    params["output"]["kernel"] *= 100
    found = pasted.insignificant(params, part.scenes, part.images, part.masks, 100)
    np.testing.assert_array_equal(found[~part.masks], part.scenes[~part.masks])
    before, after, wanted = (
        np.asarray(pasted.logits(x, params)) for x in (part.images, found, part.scenes)
    )
    assert np.linalg.norm(after - wanted) < 0.3 * np.linalg.norm(before - wanted)
    assert found.min() >= 0
    assert found.max() <= 1


def test_ranks_give_1_to_the_best_and_share_ties():
    scores = {
        name: {m: {"mean": value} for m in bam.MEASURES}
        for name, value in (("gradient", 0.5), ("LIME", 0.1), ("CGI", 0.5), ("random", 0.9))
    }
    found = {name: each["mean"] for name, each in bam._ranks(scores).items()}
    assert found == {"gradient": 1.5, "CGI": 1.5, "LIME": 3}
