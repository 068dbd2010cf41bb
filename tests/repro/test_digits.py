"""The papers' networks, and how the experiments compare and explain maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.stats

from paper_repro.experiments import cascade, photograph_cascade, saliency
from paper_repro.experiments.spearman_zeros import closed_form
from paper_repro.networks import digits
from paper_repro.report import similarity


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).random((28, 28, 1), np.float32)


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(np.asarray, digits.initialise("cnn", jax.random.key(0)))


def test_the_cnn_is_that_of_the_paper(image, params):
    """An independent version with SciPy: two convolutions, two poolings, two dense layers."""
    hidden = image
    for name in ("conv1", "conv2"):
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        hidden = np.stack(
            [
                sum(
                    scipy.signal.correlate(hidden[..., i], kernel[..., i, o], "same")
                    for i in range(kernel.shape[2])
                )
                for o in range(kernel.shape[3])
            ],
            axis=-1,
        )
        hidden = np.maximum(hidden + bias, 0)
        height, width, channels = hidden.shape
        hidden = hidden.reshape(height // 2, 2, width // 2, 2, channels).max((1, 3))
    hidden = np.maximum(hidden.ravel() @ params["fc1"]["kernel"] + params["fc1"]["bias"], 0)
    expected = hidden @ params["output"]["kernel"] + params["output"]["bias"]
    np.testing.assert_allclose(digits.logits("cnn")(image, params), expected, rtol=1e-4)


def test_initial_parameters(params):
    assert [*params] == ["conv1", "conv2", "fc1", "output"]
    assert cascade.order_of("cnn") == ("output", "fc1", "conv2", "conv1")
    assert cascade.order_of("mlp") == ("output", "h3", "h2", "h1")
    for layer in params.values():
        assert (layer["bias"] == np.float32(0.1)).all()
        assert np.abs(layer["kernel"]).max() <= 0.2
    assert params["fc1"]["kernel"].std() == pytest.approx(0.1 * 0.8796, rel=1e-2)
    dense = digits.initialise("mlp", jax.random.key(0))["h2"]
    assert dense["kernel"].std() == pytest.approx(2 / 2500**0.5 * 0.8796, rel=1e-2)
    assert not dense["bias"].any()


def test_the_smooth_network_is_close_to_the_relu_network_and_differs(image, params):
    z = np.linspace(-1, 1, 41)
    assert np.abs(digits.softplus(z) - np.maximum(z, 0)).max() == pytest.approx(np.log(2) / 20)
    small = jax.tree.map(lambda leaf: leaf / 10, params)
    exact, smooth = (of("cnn")(image, small) for of in (digits.logits, digits.smooth_logits))
    assert not np.array_equal(exact, smooth)


def test_the_notebooks_quadrature_for_integrated_gradients():
    """With both ends and equal weights, ∫ 3α² dα = 1 is computed as 1 + 1 / (2 · 49)."""
    nodes, weights = saliency.endpoints(50)
    assert nodes[0] == 0
    assert nodes[-1] == 1
    assert weights.sum() == pytest.approx(1)
    assert (weights * 3 * nodes**2).sum() == pytest.approx(1 + 1 / (2 * 49), rel=1e-5)


def test_the_map_of_an_image_is_the_same_in_a_batch(image, params):
    model = digits.logits("mlp")
    weights = digits.initialise("mlp", jax.random.key(1))
    images = np.stack([image, image[::-1], image[:, ::-1]])
    labels = np.array([1, 2, 3], np.int32)
    found = saliency.explain("gradient", model, images, labels, weights)
    assert found.shape == (3, 28, 28)
    slope = jax.grad(lambda x: model(x, weights)[2])(jnp.asarray(images[1]))
    np.testing.assert_allclose(found[1], slope[..., 0], rtol=1e-4, atol=1e-6)


def test_similarity_of_maps(image):
    random = np.random.default_rng(1)
    a, b = random.standard_normal((2, 1, 28, 28))
    dark = np.where(random.random(image.shape) < 0.8, 0, image)
    found = similarity.compare(a, b, dark[None])
    kept = dark[..., 0] > 0
    expected = {
        "abs": scipy.stats.spearmanr(np.abs(a).ravel(), np.abs(b).ravel())[0],
        "signed": scipy.stats.spearmanr(a.ravel(), b.ravel())[0],
        "nonzero": scipy.stats.spearmanr(np.abs(a[0][kept]), np.abs(b[0][kept]))[0],
    }
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, abs=1e-5)
    same = similarity.compare(a, -2 * a, dark[None])
    assert [same[name][0] for name in ("abs", "signed", "SSIM", "HOG")] == pytest.approx(
        [1, -1, 1, 1]
    )
    constant = similarity.compare(a, np.ones_like(a), dark[None])
    assert np.isnan(constant["abs"][0])
    assert np.isnan(constant["HOG"][0])


def test_closed_form_of_common_zeros():
    printed = {0: 0.0, 56: 0.1991, 224: 0.6269, 392: 0.8571, 448: 0.9032, 616: 0.9809, 728: 0.9982}
    np.testing.assert_allclose(closed_form(np.array([*printed])), [*printed.values()], atol=5e-5)


def test_maps_of_photographs_are_compared_as_maps_of_digits_are():
    """Ranks that are prepared once give the correlations of xattr.metrics; constants give NaN."""
    a, b = np.random.default_rng(0).normal(size=(2, 2, 64, 64)).round(1)  # with ties
    a[1], b[1] = abs(a[0]), abs(b[0])
    found = photograph_cascade.Reference(a).compare(b)
    expected = similarity.compare(a[:1], b[:1], np.ones((1, 64, 64, 1)))
    hog = similarity.hog(*(similarity.unit(each[1]) for each in (a, b)), cell=16)
    wanted = [expected["signed"][0], expected["abs"][0], hog, expected["SSIM"][0]]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(photograph_cascade.Reference(b).compare(b), 1, atol=1e-12)
    flat = photograph_cascade.Reference(a).compare(np.zeros_like(b))
    assert np.isnan(flat[:3]).all()
    assert np.isnan(photograph_cascade.Reference(a * np.nan).compare(b)).all()
