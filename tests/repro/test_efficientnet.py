"""EfficientNet-Lite0 equals a NumPy version, recorded numbers of PyTorch, and its own variants."""

import functools
import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paper_repro.data import packages, photographs
from paper_repro.networks import efficientnet
from paper_repro.networks.efficientnet import EfficientNetLite0
from tests.repro import numpy_efficientnet as oracle

ESPRESSO, TRIPOD = 967, 872
CATS = {281, 282, 285}  # tabby, tiger cat, Egyptian cat


@pytest.fixture(scope="module")
def tensors():
    return packages.read_torch(packages.package_file(efficientnet.WEIGHTS))


@pytest.fixture(scope="module")
def params():
    return efficientnet.load()


@pytest.fixture(scope="module")
def recorded():
    path = Path(__file__).parent / "data" / "efficientnet_lite0_logits.json"
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def images():
    return {
        name: photographs.center_crop(photographs.photograph(name))
        for name in photographs.PHOTOGRAPHS
    }


@pytest.fixture(scope="module")
def logits(params, images):
    """The logits of all photographs in float32, computed as one batch."""
    batched = jax.vmap(EfficientNetLite0().apply, in_axes=(None, 0))
    batch = jnp.stack([jnp.asarray(image) for image in images.values()])
    return dict(zip(images, np.asarray(jax.jit(batched)({"params": params}, batch)), strict=True))


@functools.cache
def logits_and_gradient(depthwise, side=224):
    """All logits of "coffee", and the gradient of that of espresso, in float64."""
    model = EfficientNetLite0(depthwise=depthwise)
    params = efficientnet.load()

    def espresso(image):
        logits = model.apply({"params": params}, image)
        return logits[ESPRESSO], logits

    with jax.enable_x64(True):
        image = jnp.asarray(photographs.center_crop(photographs.photograph("coffee")), jnp.float64)
        image = image[:side, :side]
        gradient, logits = jax.jit(jax.grad(espresso, has_aux=True))(image)
        return np.asarray(logits), np.asarray(gradient)


def test_params_fill_the_network_and_count_4652008(params):
    model, image = EfficientNetLite0(), jnp.zeros((64, 64, 3))
    expected = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    assert jax.tree.map(lambda a: (a.shape, a.dtype), expected) == jax.tree.map(
        lambda a: (a.shape, a.dtype), params
    )
    leaves = jax.tree_util.tree_leaves_with_path(params)
    trainable = [leaf.size for path, leaf in leaves if path[-1].key not in ("mean", "var")]
    assert sum(trainable) == 4_652_008


def test_weights_with_a_tensor_too_few_or_too_many_are_refused(tensors, monkeypatch):
    few = {name: tensor for name, tensor in tensors.items() if name != "_blocks.3._bn2.bias"}
    many = tensors | {"_blocks.16._bn2.bias": tensors["_fc.bias"]}
    monkeypatch.setattr(efficientnet, "read_torch", lambda path: dict(few))
    with pytest.raises(packages.DataError, match=r"some\.pth.*_blocks\.3\._bn2\.bias"):
        efficientnet.load("some.pth")
    monkeypatch.setattr(efficientnet, "read_torch", lambda path: dict(many))
    with pytest.raises(packages.DataError, match=r"some\.pth.*_blocks\.16\._bn2\.bias"):
        efficientnet.load("some.pth")


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(8, 9), (7, 6), (1, 2)])
def test_both_depthwise_convolutions_are_the_sum_over_windows(size, stride, shape):
    random = np.random.default_rng(size + 10 * stride)
    x, kernel = random.normal(size=(*shape, 4)), random.normal(size=(size, size, 1, 4))
    expected = oracle.depthwise(x.transpose(2, 0, 1), kernel.transpose(3, 2, 0, 1), stride)
    with jax.enable_x64(True):
        x, kernel = jnp.asarray(x), jnp.asarray(kernel)
        shifted = jax.jit(efficientnet.shifted, static_argnums=2)(x, kernel, stride)
        grouped = jax.jit(efficientnet.convolution, static_argnums=(2, 3))(x, kernel, stride, 4)
    np.testing.assert_allclose(shifted, expected.transpose(1, 2, 0), atol=1e-13)
    np.testing.assert_allclose(grouped, expected.transpose(1, 2, 0), atol=1e-13)


def test_float64_logits_are_those_of_numpy(tensors, images):
    logits, _ = logits_and_gradient("shifted")
    expected = oracle.logits(tensors, images["coffee"])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_float64_is_the_same_with_shifts_and_with_grouped_convolutions():
    shifted, grouped = (logits_and_gradient(kind, 64) for kind in ("shifted", "conv"))
    for ours, theirs in zip(shifted, grouped, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())


def test_the_picture_is_the_one_that_pytorch_saw(images, recorded):
    found = hashlib.sha256(images["coffee"].tobytes()).hexdigest()
    assert found == recorded["pixels_sha256"], f"resized otherwise than by {recorded['pixels']}"


def test_float64_logits_and_gradient_are_those_of_pytorch(recorded):
    logits, gradient = logits_and_gradient("shifted")
    assert recorded["label"] == ESPRESSO
    np.testing.assert_allclose(logits, recorded["logits"], rtol=0, atol=6e-8)  # seven decimals
    diagonal = gradient[range(224), range(224)][::14]
    np.testing.assert_allclose(diagonal, recorded["gradient"], rtol=1e-8, atol=1e-12)


def test_float32_logits_are_those_of_pytorch(logits, recorded):
    expected = np.array(recorded["logits"])
    np.testing.assert_allclose(
        logits["coffee"], expected, rtol=0, atol=3e-6 * np.abs(expected).max()
    )


def test_photographs_are_classified_as_published(logits):
    def top(name):
        probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits[name])))
        return int(probabilities.argmax()), float(probabilities.max())

    assert top("chelsea")[0] in CATS
    assert top("coffee") == (ESPRESSO, pytest.approx(0.95, abs=0.02))
    assert top("camera") == (TRIPOD, pytest.approx(0.94, abs=0.02))


def test_bfloat16_computes_in_bfloat16_and_stays_near(params, images, recorded):
    model = EfficientNetLite0(dtype=jnp.bfloat16)
    logits = jax.jit(lambda image: model.apply({"params": params}, image))(images["coffee"])
    assert logits.dtype == jnp.bfloat16
    found = np.asarray(logits, np.float64)
    assert found.argmax() == ESPRESSO
    np.testing.assert_allclose(found, recorded["logits"], rtol=0, atol=0.4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_the_gradient_traces_under_strict_promotion_in_the_dtype_of_the_image(params, dtype):
    model = EfficientNetLite0()

    def espresso(image):
        logits = model.apply({"params": params}, image)
        assert logits.dtype == dtype
        return logits[ESPRESSO]

    strict = jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict")
    with strict[0], strict[1], jax.enable_x64(dtype == "float64"):
        gradient = jax.eval_shape(jax.grad(espresso), jax.ShapeDtypeStruct((40, 33, 3), dtype))
    assert (gradient.shape, gradient.dtype) == ((40, 33, 3), dtype)


@pytest.mark.parametrize("image", [np.zeros((2, 32, 32, 3), np.float32), np.zeros((8, 8, 3), int)])
def test_a_batch_or_integers_are_refused_by_name(params, image):
    with pytest.raises(ValueError, match="`image` must be one image of floats"):
        EfficientNetLite0().apply({"params": params}, image)


def test_relu6_is_flat_at_both_kinks():
    """That is why the network uses jax.nn.relu6; with minimum and maximum the slope is ½ there."""
    assert [float(jax.grad(jax.nn.relu6)(x)) for x in (0.0, 3.0, 6.0)] == [0, 1, 0]
