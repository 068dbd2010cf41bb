"""What takes the place of pixels, against the linear equations written out, and in the curves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xattr
from xattr import evaluation

RANDOM = np.random.default_rng(0)


def oracle(x, removed):
    """Solve v_i Σ w_ij = Σ w_ij v_j as one dense system in float64."""
    height, width = removed.shape
    matrix, right = np.eye(height * width), x.reshape(height * width, -1).astype(float)
    for i, j in np.argwhere(removed):
        row = i * width + j
        matrix[row], right[row] = 0, 0
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                if (di or dj) and 0 <= i + di < height and 0 <= j + dj < width:
                    w = 1 / 12 if di and dj else 1 / 6
                    matrix[row, row] += w
                    matrix[row, (i + di) * width + j + dj] -= w
    return np.linalg.solve(matrix, right).reshape(x.shape)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(7, 9, 3), (6, 5)])
def test_all_equations_hold_at_once(share, shape):
    x = RANDOM.normal(size=shape).astype(np.float32)
    removed = RANDOM.random(shape[:2]) < share
    found = evaluation.neighbour_mean(x, removed)
    np.testing.assert_allclose(found, oracle(x, removed), atol=1e-3)
    np.testing.assert_array_equal(np.asarray(found)[~removed], x[~removed])


def test_a_constant_image_stays_and_nothing_left_is_zero():
    x, all_of_it = jnp.full((4, 4), 3.0), jnp.ones((4, 4), bool)
    np.testing.assert_allclose(evaluation.neighbour_mean(x, all_of_it.at[0, 0].set(False)), 3)
    assert not evaluation.neighbour_mean(x, all_of_it).any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_in_a_batch_and_staged(dtype):
    x = jnp.asarray(RANDOM.normal(size=(3, 5, 5, 2)), dtype)
    removed = jnp.asarray(RANDOM.random((3, 5, 5)) < 0.5)
    batch = jax.jit(jax.vmap(evaluation.neighbour_mean))(x, removed)
    assert batch.dtype == dtype
    for one, image, gone in zip(batch, x, removed, strict=True):
        alone = evaluation.neighbour_mean(image, gone)
        np.testing.assert_allclose(
            np.asarray(one, np.float32), np.asarray(alone, np.float32), atol=2e-3
        )


def test_bad_input():
    x, removed = jnp.ones((3, 3)), jnp.zeros((3, 3), bool)
    with pytest.raises(ValueError, match="image"):
        evaluation.neighbour_mean(jnp.ones(3), removed)
    with pytest.raises(TypeError, match="boolean"):
        evaluation.neighbour_mean(x, x)
    with pytest.raises(ValueError, match="shape"):
        evaluation.neighbour_mean(x, removed[:2])


def test_a_curve_with_a_fill():
    """Of (1, 0, 5) the middle goes first: 0 becomes 3; then the right: both become 1."""
    x, scores = jnp.array([[1.0, 0.0, 5.0]]), jnp.array([[0.0, 2.0, 1.0]])
    fill = evaluation.neighbour_mean
    counts = jnp.array([0, 1, 2])
    curve = evaluation.perturbation_curve(jnp.sum, scores, x, fill, counts=counts)
    np.testing.assert_allclose(curve, [6, 9, 3], rtol=1e-4)
    # From nothing: 0, then the middle pixel everywhere, then 0 and 5 with 0 at the left.
    curve = evaluation.perturbation_curve(jnp.sum, scores, x, fill, counts=counts, insert=True)
    np.testing.assert_allclose(curve, [0, 0, 5], atol=1e-4)


def test_a_fill_of_ones_own():
    x, scores = jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])
    fill = lambda x, removed: jnp.where(removed, -x, x)
    found = evaluation.perturbation_curve(jnp.sum, scores, x, fill)
    np.testing.assert_allclose(found, [3, 1, -3])


def test_groups_go_together_in_the_order_of_their_sums():
    x = jnp.array([1.0, 10.0, 100.0, 1000.0])
    scores, groups = jnp.array([5.0, 2.0, 1.0, 0.0]), np.array([0, 1, 1, 0])
    curve = evaluation.perturbation_curve(jnp.sum, scores, x, groups=groups)
    np.testing.assert_allclose(curve, [1111, 110, 0])  # 5 before 3
    image, patches = jnp.ones((4, 4, 3)), xattr.groups.grid(jnp.ones((4, 4)), (2, 2))
    maps = jnp.arange(48.0).reshape(4, 4, 3)
    assert evaluation.perturbation_curve(jnp.sum, maps, image, groups=patches).tolist() == [
        48.0, 36.0, 24.0, 12.0, 0.0,
    ]  # fmt: skip
    assert evaluation.deletion(jnp.sum, maps, image, groups=patches) == 0.5
    assert evaluation.insertion(jnp.sum, maps, image, groups=patches) == 0.5
    assert evaluation.aopc(jnp.sum, maps, image, groups=patches) == 24


def test_groups_must_fit_the_scores():
    with pytest.raises(ValueError, match="`attributions` has shape"):
        evaluation.aopc(jnp.sum, jnp.ones(4), jnp.ones(4), groups=np.array([0, 1, 2]))


def test_what_is_filled_moves_with_the_image():
    x, removed = RANDOM.normal(size=(12, 12)).astype(np.float32), RANDOM.random((12, 12)) < 0.7
    found = evaluation.neighbour_mean(x + 1000, removed) - 1000
    np.testing.assert_allclose(found, evaluation.neighbour_mean(x, removed), atol=2e-3)


def test_scores_without_an_order_have_no_curve():
    scores, x = jnp.array([np.nan, 1.0, 2.0]), jnp.ones(3)
    for order in ("most", "least"):
        assert np.isnan(evaluation.perturbation_curve(jnp.sum, scores, x, order=order)).all()
    assert np.isnan(evaluation.deletion(jnp.sum, scores, x))


def test_curves_need_a_scalar_and_whole_numbers():
    x = jnp.ones(3)
    with pytest.raises(ValueError, match="`f` must return one scalar"):
        evaluation.perturbation_curve(lambda x: x, x, x)
    with pytest.raises(TypeError, match="`counts` must be whole numbers"):
        evaluation.perturbation_curve(jnp.sum, x, x, counts=jnp.array([0.0, 0.5, 3.0]))
