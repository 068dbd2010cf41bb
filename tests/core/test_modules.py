"""flax.nnx modules that count: rebuilt in the trace in which they are called."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import xattr
from xattr._core import compilation


class Recurrent(nnx.Module):
    """nnx.RNN splits the random numbers of its cell at every call."""

    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.SimpleCell(3, 4, rngs=rngs))
        self.out = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(self.rnn(x[None])[0, -1])[0]


class Noisy(nnx.Module):
    """A dropout that is on, and counts."""

    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return jnp.sum(jax.nn.relu(self.dropout(self.layer(x))))


class Normalized(nnx.Module):
    """A BatchNorm in training counts the statistics of its batch."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.layer = nnx.Linear(3, 1, rngs=rngs)

    def __call__(self, x):
        return jnp.sum(jax.nn.relu(self.layer(self.norm(x))))


class Counting(nnx.Module):
    """A count of one's own."""

    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 1, rngs=rngs)
        self.calls = nnx.Variable(jnp.array(0))

    def __call__(self, x):
        self.calls[...] = self.calls[...] + 1
        return jnp.sum(jax.nn.relu(self.layer(x)))


MODULES = {m.__name__: m for m in (Recurrent, Noisy, Normalized, Counting)}
TOLD = {
    "Normalized": {"`f` changes 2 of its own arrays when it is called (float32[3])"},
}
METHODS = {
    "gradient": xattr.gradient,
    "integrated_gradients": xattr.integrated_gradients,
    "deep_lift": xattr.deep_lift,
    "lrp": xattr.lrp,
    "deep_taylor": xattr.deep_taylor,
    "guided_backprop": functools.partial(xattr.guided_backprop, on_uncovered="gradient"),
    "explain": lambda f, x: xattr.relevance_report(f, x).arriving,
}


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("method", METHODS)
def test_equal_to_the_merged_form(method, module):
    model = MODULES[module](nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 3)), jnp.float32)
    merged = lambda x: nnx.merge(graphdef, state, copy=True)(x)
    attribute = METHODS[method]
    compilation._COMPILED.clear()  # or it was traced before, and is not told of again
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found, expected = attribute(model, x), attribute(merged, x)
    assert {str(each.message).partition(",")[0] for each in told} == TOLD.get(module, set())
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    counts = [v[...] for _, v in nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngKey)))]
    before = [v[...] for _, v in nnx.to_flat_state(nnx.filter_state(state, nnx.Not(nnx.RngKey)))]
    for now, then in zip(counts, before, strict=True):
        np.testing.assert_array_equal(now, then)  # the caller's module has not counted


def test_a_batch_of_one_example():
    """In training the output is the bias, whatever x is; in evaluation x / √(1 + 1e-5) goes on."""
    model = Normalized(nnx.Rngs(0))
    f = lambda model, x: jnp.sum(model.layer(model.norm(x[None])))
    compilation._COMPILED.clear()
    with pytest.warns(UserWarning, match=r"Call model\.eval\(\) before"):
        assert not xattr.integrated_gradients(functools.partial(f, model), jnp.ones(3)).any()
    model.eval()
    found = xattr.integrated_gradients(functools.partial(f, model), jnp.ones(3))
    np.testing.assert_allclose(found, model.layer.kernel[:, 0] / np.sqrt(1 + 1e-5), rtol=1e-5)
