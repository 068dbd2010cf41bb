"""Constructed networks and their truths, by what they must give, and the area under a ROC curve."""

import jax
import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from paper_repro.experiments import constructed, small_methods, truth
from paper_repro.experiments.constructed import DEAD, STRENGTH, network


@pytest.fixture(scope="module")
def problems():
    return constructed.problems(64, np.random.default_rng(0))


def scores_of(problem):
    return np.asarray(jax.jit(jax.vmap(network, (0, None)))(problem.images, problem.params))


@pytest.mark.parametrize("name", ["patch", "decoy"])
def test_the_detector_reads_the_planted_window_alone(problems, name):
    problem = problems[name]
    (mask,) = problem.truths.values()
    template = constructed.template().ravel()
    read = problem.images[mask].reshape(len(mask), -1) @ template - constructed.THRESHOLD
    np.testing.assert_allclose(scores_of(problem), read, atol=1e-5)
    assert (mask.sum(axis=(1, 2)) == 9).all()


def test_the_saturated_score_is_flat(problems):
    problem = problems["saturated"]
    np.testing.assert_allclose(scores_of(problem), 0.5, atol=1e-6)
    slopes = jax.vmap(jax.grad(network), (0, None))(problem.images, problem.params)
    assert np.abs(slopes).max() == 0


def test_xor_is_2_less_the_dead_zone_or_0(problems):
    noise = 4 * constructed.NOISE / STRENGTH * 2**0.5
    assert scores_of(problems["unequal"]) == pytest.approx(2 - DEAD, abs=noise)
    assert np.abs(scores_of(problems["equal"])).max() == 0
    nothing = np.zeros((1, 12, 12), np.float32)
    assert np.abs(scores_of(problems["equal"]._replace(images=nothing))).max() == 0


def test_the_second_patch_of_the_distractor_tells_nothing_and_is_needed():
    problem = constructed.problems(4_000, np.random.default_rng(1))["distractor"]
    found, images = scores_of(problem), problem.images
    first, second = (images[constructed._place(corner)] for corner in ((2, 2), (7, 7)))
    template = constructed.template()
    signal = ((first - second) * template).sum(axis=(1, 2))
    np.testing.assert_allclose(found, signal, atol=1e-4)
    amount = (second * template).sum(axis=(1, 2))
    assert abs(np.corrcoef(amount, np.sign(found))[0, 1]) < 4 / 4_000**0.5
    alone = (first * template).sum(axis=(1, 2))
    assert (np.sign(alone) == np.sign(found)).mean() < 0.8


def test_area_is_that_of_mann_and_whitney():
    random = np.random.default_rng(0)
    maps = random.integers(-3, 4, (5, 6, 6)).astype(float)  # with ties
    masks = random.random((5, 6, 6)) < 0.3
    for found, a, inside in zip(truth.auc(maps, masks), np.abs(maps), masks, strict=True):
        test = mannwhitneyu(a[inside], a[~inside])
        assert found == pytest.approx(test.statistic / (inside.sum() * (~inside).sum()))


def test_area_by_hand():
    maps = np.array([[[4.0, -3.0], [0.0, 1.0]]])
    masks = np.array([[[True, False], [False, True]]])
    assert truth.auc(maps, masks) == pytest.approx([0.75])
    assert truth.auc(0 * maps, masks) == pytest.approx([0.5])


def test_a_map_of_zeros_has_neither_mass_nor_rank():
    masks = np.stack([np.eye(3, dtype=bool)] * 2)
    measured = truth._measured(np.zeros((2, 3, 3), np.float32), masks)
    assert np.isnan(measured["mass"]).all()
    assert np.isnan(measured["rank"]).all()


def test_methods_are_those_that_a_case_has_the_fields_for():
    assert "Grad-CAM" not in small_methods.methods_for(references=True, patterns=True)
    assert "Grad-CAM" in small_methods.methods_for(layer="conv2")
    assert "PatternNet" not in small_methods.methods_for()
