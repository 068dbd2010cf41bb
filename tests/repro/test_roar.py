"""Rankings, removal and retraining, by hand-worked answers and by the library's own estimators."""

import jax
import numpy as np
import pytest

import xattr
from paper_repro.experiments import retraining, roar
from paper_repro.experiments.retraining import Retraining


@pytest.fixture(autouse=True)
def standard_promotion():
    """Adam of optax takes a power of mixed dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_ranks_by_hand():
    maps = np.array([[0.1, -3.0, 2.0, 0.0], [5.0, 1.0, -2.0, 4.0]])
    np.testing.assert_array_equal(retraining.ranks_of(maps, 0), [[2, 0, 1, 3], [0, 3, 2, 1]])


def test_ties_are_in_random_order():
    ranks = retraining.ranks_of(np.zeros((2_000, 5)), 0)
    assert (np.sort(ranks, axis=1) == np.arange(5)).all()
    assert np.abs(ranks.mean(axis=0) - 2).max() < 4 * 2**0.5 / 2_000**0.5


@pytest.mark.parametrize(("keep", "expected"), [(False, [9, 9, 3, 4]), (True, [1, 2, 9, 9])])
def test_removal_by_hand(keep, expected):
    pixels, ranks = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 0, 3, 2], np.uint16)
    np.testing.assert_array_equal(retraining.degraded(pixels, ranks, 2, keep, 9.0), expected)


@pytest.mark.parametrize("base", retraining.BASES)
def test_one_pass_gives_what_the_library_gives(base):
    params = retraining.Net().init(jax.random.key(0), np.zeros(784, np.float32))["params"]
    image = np.random.default_rng(0).random(784, np.float32)
    key = jax.random.key(1)
    found = retraining.estimates(base, image[None], params, key[None])
    method, f = retraining.BASES[base], xattr.targets.logit(retraining.model)
    args = (retraining.model(image, params).argmax(), params)
    options = {"method": method, "num_samples": retraining.SAMPLES, "args": args}
    plain = next(name for name, prefix in retraining.PLAIN.items() if prefix == base)
    expected = {
        plain: method(f, image, args=args),
        base + "SmoothGrad": xattr.smooth_grad(f, image, key, **options),
        base + "SmoothGrad²": xattr.smooth_grad_squared(f, image, key, **options),
        base + "VarGrad": xattr.var_grad(f, image, key, **options),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[name][0] / scale, value / scale, atol=2e-5, err_msg=name)


@pytest.fixture(scope="module")
def work():
    """Two classes that differ in the first ten pixels alone."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 1_200).astype(np.int32)
    pixels = random.random((1_200, 784)).astype(np.float32)
    pixels[:, :10] = labels[:, None]
    return Retraining(
        retraining.Data(pixels[:1_000], labels[:1_000], pixels[1_000:], labels[1_000:]), 3, 0
    )


def test_right_pixels_removed_leave_chance_and_kept_suffice(work):
    order = np.tile(np.arange(784, dtype=np.uint16), (1_200, 1))
    original, _ = work.original()
    assert original.shape == (retraining.RETRAININGS,)
    assert original.min() > 0.9
    assert work.accuracies(order, 10 / 784).max() < 0.65
    # Among 774 grey pixels one of the three may not learn in 30 steps.
    assert np.median(work.accuracies(order, 10 / 784, keep=True)) > 0.95
    wrong = order[:, ::-1]
    assert work.accuracies(wrong, 0.5).min() > 0.9
    assert work.accuracies(wrong, 0.5, keep=True).max() < 0.65


def test_a_mask_tells_the_class_only_if_it_depends_on_it(work):
    labels = np.concatenate([work.data.train_labels, work.data.test_labels])
    order = np.arange(784, dtype=np.uint16)
    telling = np.where(labels[:, None] == 1, order, order[::-1])
    assert work.from_mask(telling, 0.5).min() > 0.99
    assert work.from_mask(np.tile(order, (1_200, 1)), 0.5).max() < 0.65


def test_better_is_apart_from_all_retrainings_of_random():
    def found(roar_values, kar_values):
        curves = {"random": np.array([[0.5, 0.6, 0.55]])}
        kinds = {
            "ROAR": {**curves, "gradient": np.array([roar_values])},
            "KAR": {**curves, "gradient": np.array([kar_values])},
        }
        return roar.Found(np.zeros(3), kinds, np.zeros(0), {}, 0.0)

    case = found([0.4, 0.45, 0.49], [0.7, 0.59, 0.8])
    assert roar.better(case, "ROAR", "gradient")
    assert not roar.better(case, "KAR", "gradient")
    assert not roar.better(found([0.4, 0.45, 0.51], [0, 0, 0]), "ROAR", "gradient")


@pytest.mark.parametrize(
    ("name", "base"),
    [("gradient", ""), ("VarGrad", ""), ("IG-SmoothGrad²", "IG-"), ("guided backprop", "GB-"),
     ("GB-VarGrad", "GB-"), ("random", "zz"), ("edge detector", "zz")],
)  # fmt: skip
def test_the_method_that_an_estimator_is_made_of(name, base):
    assert roar._base(name) == base
