"""How many gradients are taken together where nobody says, and that nobody needs to know."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import xattr
from tests import table
from xattr._core import chunks
from xattr._program import jaxpr, workload

MIB = 2**20


def widening(size):
    """A function whose largest array that depends on x has so many float32."""
    return lambda x, *args: (
        jnp.sum(jnp.tanh(x[0] * jnp.ones(size, x.dtype))) + sum(jnp.sum(arg) for arg in args)
    )


@pytest.mark.parametrize(
    ("size", "chunk"),
    [(1, 64), (MIB // 64, 64), (MIB // 40, 40), (MIB // 4, 4), (MIB, 1), (4 * MIB, 1)],
)
def test_the_largest_array_decides(size, chunk):
    """4 MiB hold the largest arrays of a chunk, of 1 to 64 examples."""
    x, args = jnp.ones(3), (np.ones((MIB, 3), np.float32),)  # of args nothing depends on x
    assert workload.largest_array(widening(size), x, args) == 4 * max(size, 3)
    assert workload.chunk_size(None, widening(size), x, args) == chunk
    assert workload.chunk_size(7, widening(size), x, args) == 7


def test_arrays_of_a_dtype_in_a_loop_and_of_a_large_input():
    def looping(x):
        body = lambda h, row: (jnp.tanh(h + row.astype(h.dtype)), None)
        return jnp.sum(lax.scan(body, jnp.ones(100, jnp.bfloat16), x)[0]).astype(jnp.float32)

    assert workload.largest_array(looping, jnp.ones((2, 100)), ()) == 800  # x itself
    assert workload.largest_array(looping, jnp.ones((1, 100)), ()) == 400
    half = lambda x: looping(x.astype(jnp.float32)[None])
    assert workload.largest_array(half, jnp.ones(100, jnp.bfloat16), ()) == 400  # the cast


def test_where_nothing_was_measured(monkeypatch):
    f = widening(MIB)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert workload.chunk_size(None, f, jnp.ones(3), ()) == 16
    assert workload.chunk_size(3, f, jnp.ones(3), ()) == 3


def test_what_cannot_be_read_or_is_not_a_score(monkeypatch):
    assert workload.chunk_size(None, lambda x: x, jnp.ones(3), ()) == 16
    assert workload.chunk_size(None, lambda x: 1.0, jnp.ones(0), ()) == 64
    monkeypatch.setattr(jaxpr, "open_program", lambda *args: args[0].renamed)
    with pytest.warns(RuntimeWarning, match="slower than it could be"):
        assert workload.chunk_size(None, widening(MIB), jnp.ones(3), ()) == 16


def test_f_is_traced_once_for_all_programs():
    traced = []

    def f(x, params):
        traced.append(x)
        return table.mlp(x, params)[0]

    for seed in range(3):
        xattr.integrated_gradients(f, table.inputs(seed), args=(table.parameters(seed),))
    assert len(traced) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 33, 64])
def test_a_block_counts_every_item_once(count, size):
    size, starts, valid = chunks.split(count, size)
    counted = np.zeros(count, int)
    blocks = list(chunks._blocks(starts, valid))
    for items, mask in blocks:
        assert len(items) % size == 0
        assert len(items) <= chunks.BLOCK
        np.add.at(counted, items[mask], 1)
    np.testing.assert_array_equal(counted, 1)
    assert len({len(items) for items, _ in blocks}) == 1  # one program


def test_blocks_change_nothing_but_rounding(x64):
    """17 and 30 nodes: the last block of small chunks repeats one that has been counted."""
    params = table.parameters(dtype=jnp.float64)
    x = jnp.asarray(table.inputs(), jnp.float64)
    score = xattr.targets.logit(table.mlp)
    line = xattr.paths.straight_line(baseline=jnp.zeros_like(x), x=x)
    for nodes, chunk in itertools.product((17, 30), (1, 2, 3, None)):
        rule = xattr.quadrature.gauss_legendre(nodes)
        options = {"quadrature": rule, "args": (1, params)}
        whole = xattr.path_integral(score, line, chunk_size=nodes, **options)
        for progress in (None, iter):
            parts = {"chunk_size": chunk, "progress": progress, **options}
            np.testing.assert_allclose(
                xattr.path_integral(score, line, **parts), whole, rtol=1e-12, atol=1e-14
            )
            np.testing.assert_allclose(
                xattr.integrated_gradients(score, x, **parts), whole, rtol=1e-12, atol=1e-14
            )
