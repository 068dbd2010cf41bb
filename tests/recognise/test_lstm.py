"""An LSTM of flax under `nnx.RNN`, of `lax.scan`, and with its steps written out: one set of maps.

They are compared in float64. `test_recurrent.py` has other cells, rules and forms of loops.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import xattr
from xattr import composites, rules

WORDS, WIDTH, UNITS = 9, 3, 4


class Network(nnx.Module):
    """A text classifier: embeddings, two layers of LSTM, the state after the last word."""

    def __init__(self, rngs):
        make = functools.partial(nnx.LSTMCell, rngs=rngs, param_dtype=float, dtype=float)
        self.table = nnx.Embed(WORDS, WIDTH, rngs=rngs, param_dtype=float, dtype=float)
        self.layers = nnx.List([nnx.RNN(make(WIDTH, UNITS)), nnx.RNN(make(UNITS, UNITS))])
        self.output = nnx.Linear(UNITS, 2, rngs=rngs, param_dtype=float, dtype=float)

    def __call__(self, ids):
        hidden = self.table(ids)[None]
        for layer in self.layers:
            hidden = layer(hidden)
        return self.output(hidden[0, -1])


def weights_of(layer):
    """Return the matrix from the input, that from the state, and the bias, each of four gates."""
    cell = layer.cell
    into = [cell.ii.kernel[...], cell.if_.kernel[...], cell.ig.kernel[...], cell.io.kernel[...]]
    back = [cell.hi, cell.hf, cell.hg, cell.ho]
    biases = [gate.bias[...] for gate in back]
    return (
        jnp.concatenate(into, axis=1),
        jnp.concatenate([gate.kernel[...] for gate in back], axis=1),
        jnp.concatenate(biases),
    )


def step(state, row, weights):
    (h, c), (into, back, bias) = state, weights
    i, f, g, o = jnp.split(row @ into + (h @ back + bias), 4)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def scanned(hidden, weights):
    start = (jnp.zeros(UNITS), jnp.zeros(UNITS))
    return lax.scan(lambda state, row: step(state, row, weights), start, hidden)[1]


def unrolled(hidden, weights):
    state, outputs = (jnp.zeros(UNITS), jnp.zeros(UNITS)), []
    for row in hidden:
        state, output = step(state, row, weights)
        outputs.append(output)
    return jnp.stack(outputs)


def by_hand(loop):
    def model(ids, table, layers, output):
        hidden = table[ids]
        for weights in layers:
            hidden = loop(hidden, weights)
        return hidden[-1] @ output[0] + output[1]

    return model


def lrp(rule):
    return functools.partial(xattr.lrp, composite=composites.every_layer(rule), bias="include")


METHODS = {
    "gradient": xattr.gradient,
    "integrated gradients": xattr.integrated_gradients,
    "LRP, epsilon": lrp(rules.epsilon(0.01)),
    "LRP, gamma": lrp(rules.gamma(0.25)),
    "DeepLIFT": functools.partial(xattr.deep_lift, variant="rescale"),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_three_forms_have_the_same_maps(name, x64):
    network = Network(nnx.Rngs(0))
    output = (network.output.kernel[...], network.output.bias[...] + 0.1)
    network.output.bias[...] = output[1]
    table = network.table.embedding[...]
    args = (table, [weights_of(layer) for layer in network.layers], output)
    ids = jnp.array([1, 7, 1])
    maps = []
    for model, rest in ((network, ()), (by_hand(scanned), args), (by_hand(unrolled), args)):
        embed, from_embeddings = xattr.tokens.at_embedding(model)
        f = xattr.targets.log_odds(from_embeddings)
        x = embed(ids, *rest)
        np.testing.assert_array_equal(x, table[ids])
        maps.append(METHODS[name](f, x, args=(1, ids, *rest)))
    assert maps[0].dtype == np.float64
    size = np.abs(maps[2]).max()
    assert size > 1e-3
    for found in maps[:2]:
        np.testing.assert_allclose(found, maps[2], rtol=0, atol=1e-9 * size)
