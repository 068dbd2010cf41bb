"""Learned masks: where they lie on networks whose relevant pixels are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xattr._perturb.masks import meaningful_perturbation
from xattr.testing import count_compilations

KEY = jax.random.key(0)
IMAGE = jnp.ones((24, 24, 2))
PATCH = (slice(6, 14), slice(12, 20))
FAST = {"grid": (12, 12), "jitter": 0, "num_steps": 200}
SHARE = 64 / 576


def patch_mean(x, scale=1.0):
    return scale * x[PATCH].mean()


def inside(mask):
    return float(mask[PATCH].sum() / mask.sum())


@pytest.mark.parametrize("game", ["delete", "preserve"])
@pytest.mark.parametrize("jitter", [0, 2])
def test_a_mask_of_the_area_of_the_patch_lies_in_it(game, jitter):
    options = FAST | {"jitter": jitter, "game": game, "area": SHARE}
    mask = meaningful_perturbation(patch_mean, IMAGE, None, jax.random.key(0), **options)
    assert mask.shape == (24, 24)
    assert float(mask.min()) >= 0
    assert float(mask.max()) <= 1
    assert inside(mask) > 0.8  # interpolation blurs its edge: one cell is two pixels


@pytest.mark.parametrize("game", ["delete", "preserve"])
def test_a_sparse_mask_lies_in_the_patch(game):
    # A cell in the patch has at least .035 of the score, one beside it at most .016: 4 / 144 is
    # between them.
    options = FAST | {"game": game, "smoothness": 0.0, "sparsity": 4.0}
    mask = meaningful_perturbation(patch_mean, IMAGE, None, KEY, **options)
    cells = np.zeros((12, 12))
    cells[3:7, 6:10] = 1
    np.testing.assert_array_equal(mask, jax.image.resize(cells, (24, 24), "linear"))


@pytest.mark.parametrize("area", [0.05, 0.2, 0.6])
def test_the_area_is_met(area):
    network = lambda x: jnp.tanh(jnp.sum(x * jnp.sin(jnp.arange(24.0))[:, None, None]) / 20)
    mask = meaningful_perturbation(network, IMAGE, None, KEY, **FAST, area=area)
    assert float(mask.mean()) == pytest.approx(area, rel=1e-3)


@pytest.mark.parametrize("game", ["delete", "preserve"])
def test_a_constant_needs_nothing(game):
    mask = meaningful_perturbation(lambda x: 0 * x.sum() + 3, IMAGE, None, KEY, **FAST, game=game)
    np.testing.assert_array_equal(mask, 0)


def test_where_image_and_baseline_agree_nothing_has_to_go():
    """The score depends on two patches, and the baseline differs from the image in one."""
    f = lambda x: x[:6, :6].mean() + x[-6:, -6:].mean()
    baseline = IMAGE.at[:12].set(0)
    mask = meaningful_perturbation(f, IMAGE, baseline, KEY, **FAST, smoothness=0.0, sparsity=0.5)
    assert float(mask[:6, :6].mean()) > 0.9
    assert float(mask[-6:, -6:].max()) < 1e-6


def test_more_smoothness_gives_a_smoother_mask():
    rough, smooth = (
        np.asarray(meaningful_perturbation(patch_mean, IMAGE, None, KEY, **FAST, smoothness=s))
        for s in (0.0, 20.0)
    )
    steepest = lambda mask: max(np.abs(np.diff(mask, axis=axis)).max() for axis in (0, 1))
    assert steepest(smooth) < 0.7 * steepest(rough)


def test_each_example_is_the_same_alone_and_in_a_batch(x64):
    images = jnp.stack([IMAGE, 2 * IMAGE]).astype(float)
    one = lambda x: meaningful_perturbation(patch_mean, x, None, KEY, **FAST)
    both = jax.jit(jax.vmap(one))(images)
    for image, mask in zip(images, both, strict=True):
        np.testing.assert_allclose(mask, one(image), atol=1e-9)


def test_new_values_do_not_recompile():
    options = FAST | {"jitter": 1}
    for scale, sparsity, seed in ((1.0, 0.1, 0), (2.0, 0.3, 1)):
        with count_compilations() as counts:
            meaningful_perturbation(
                patch_mean,
                scale * IMAGE,
                scale * IMAGE / 3,
                jax.random.key(seed),
                sparsity=sparsity,
                args=(scale,),
                **options,
            )
    assert counts["mask_kernel"] == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtype_of_the_image(dtype):
    mask = meaningful_perturbation(patch_mean, IMAGE.astype(dtype), None, KEY, **FAST, area=SHARE)
    assert mask.dtype == dtype
    assert inside(mask.astype(float)) > 0.75


def test_gradients_pass_through_the_search():
    options = FAST | {"num_steps": 5}
    total = lambda scale: meaningful_perturbation(
        patch_mean, IMAGE, None, KEY, args=(scale,), smoothness=0.5, **options
    ).sum()
    assert np.isfinite(jax.grad(total)(1.0))
