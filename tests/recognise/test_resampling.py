"""What moves, copies or averages with constants that JAX computes is not a layer with weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import xattr
from xattr import composites, rules

NHWC = ("NHWC", "HWIO", "NHWC")
RANDOM = np.random.default_rng(0)
X, KERNEL, W = (RANDOM.standard_normal(s) for s in ((6, 6, 2), (3, 3, 2, 4), (8, 4)))
ALPHA_BETA = composites.every_layer(rules.alpha_beta(2.0, 1.0))


def conv(h):
    return lax.conv_general_dilated(h[None], KERNEL, (1, 1), "SAME", dimension_numbers=NHWC)[0]


def resize(size, method):
    return lambda h: jax.image.resize(h, (size, size, h.shape[-1]), method)


def patches(h):
    shape = ((2, 2), (1, 1), "VALID")
    return lax.conv_general_dilated_patches(h[None], *shape, dimension_numbers=NHWC)[0]


RESAMPLINGS = {
    "bilinear": resize(12, "bilinear"),
    "smaller": resize(3, "bilinear"),
    "uneven": resize(9, "linear"),
    "nearest": resize(12, "nearest"),
    "cubic": resize(12, "cubic"),
    "patches": patches,
    "identity": lambda h: h @ jnp.eye(h.shape[-1], dtype=h.dtype),
    "mean": lambda h: jnp.tensordot(jnp.full((6, 6), 1 / 6, h.dtype), h, 1),
    "average pool": lambda h: lax.conv_general_dilated(
        h[None],
        jnp.ones((2, 2, 1, h.shape[-1]), h.dtype) / 4,
        (2, 2),
        "VALID",
        dimension_numbers=NHWC,
        feature_group_count=h.shape[-1],
    ),
    "shifted": lambda h: jnp.tensordot(jnp.eye(6, k=1, dtype=h.dtype), h, 1),
}


@pytest.mark.parametrize("name", RESAMPLINGS)
def test_relevance_is_kept_by_a_resampling(name, x64):
    """α2β1 gives a layer twice what is positive: a resize taken for one gives f several times."""
    resample = RESAMPLINGS[name]

    def f(x):
        return jnp.sum(resample(jax.nn.relu(conv(x))))

    found = xattr.lrp(f, jnp.asarray(X), ALPHA_BETA)
    np.testing.assert_allclose(found.sum(), f(X), rtol=1e-6)
    kinds = [o.kind for o in xattr.explain(f, jnp.asarray(X)).operations]
    assert kinds.count("conv") + kinds.count("dense") == 1


def cut(h):
    """The patches, cut by slices: channel by channel, row by row."""
    parts = [h[i : i + 5, j : j + 5, c] for c in range(2) for i in range(2) for j in range(2)]
    return jnp.stack(parts, -1)


FIRST = {
    "flat": composites.epsilon_plus_flat(),
    "z_plus": composites.every_layer(rules.z_plus()),
    "w_square": composites.compose(
        (composites.first_layer, rules.w_square()),
        (composites.kind("dense", "conv"), rules.z_plus()),
    ),
    "z_box": composites.compose(
        (composites.first_layer, rules.z_box(-4.0, 4.0)),
        (composites.kind("dense", "conv"), rules.z_plus()),
    ),
}


@pytest.mark.parametrize("name", FIRST)
def test_patches_are_slices(name, x64):
    """An im2col is not the first layer; what comes after it is."""
    maps = [
        xattr.lrp(lambda x, p=p: jnp.sum(jax.nn.relu(p(x) @ W)), jnp.asarray(X), FIRST[name])
        for p in (patches, cut)
    ]
    np.testing.assert_allclose(*maps, atol=1e-9)
    np.testing.assert_allclose(maps[0].sum(), jnp.sum(jax.nn.relu(cut(X) @ W)), rtol=1e-9)


@pytest.mark.parametrize("name", FIRST)
def test_the_layer_behind_a_resize_is_the_first(name, x64):
    """The relevance of the resized picture, brought back by the weights of the resize."""
    picture = resize(12, "bilinear")
    f = lambda x: jnp.sum(jax.nn.relu(conv(x)))
    found = xattr.lrp(lambda x: f(picture(x)), jnp.asarray(X), FIRST[name])
    large = picture(jnp.asarray(X))
    inner = xattr.lrp(f, large, FIRST[name])
    if name == "z_plus":  # x ⊙ Lᵀ (R / L x), as of every sum
        _, back = jax.vjp(picture, jnp.asarray(X))
        np.testing.assert_allclose(found, X * back(inner / large)[0], rtol=1e-6, atol=1e-9)
    else:  # shares that do not depend on x
        _, back = jax.vjp(picture, jnp.asarray(X))
        np.testing.assert_allclose(found, back(inner)[0], rtol=1e-6, atol=1e-9)


def test_trained_weights_stay_a_layer():
    """Weights that f brings along count as trained, whatever their values."""
    eye = np.eye(3, dtype=np.float32)
    for f in (lambda x: jnp.sum(x @ eye), lambda x: jnp.sum(x @ jnp.asarray(eye))):
        assert "dense" in [o.kind for o in xattr.explain(f, jnp.ones(3)).operations]
    given = xattr.explain(lambda x, w: jnp.sum(x @ w), jnp.ones(3), args=(jnp.eye(3),))
    assert "dense" in [o.kind for o in given.operations]
