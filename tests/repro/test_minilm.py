"""MiniLM in flax equals PyTorch's numbers, and methods go through it without loss."""

import json
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xattr
from paper_repro.data import safetensors
from paper_repro.data.packages import DataError
from paper_repro.networks import minilm


@pytest.fixture(scope="module")
def params():
    return minilm.load()


@pytest.fixture(scope="module")
def recorded():
    return json.loads((Path(__file__).parent / "data" / "minilm.json").read_text())


@pytest.fixture(scope="module")
def problem(params, recorded):
    """f and its arguments: the cosine of the first sentence, at its embeddings, with the second."""
    embed, from_embeddings = xattr.tokens.at_embedding(minilm.vector)

    def f(x, ids, other, params):
        return from_embeddings(x, ids, params) @ other

    ids = jnp.array(recorded["ids"][0])
    args = (ids, jnp.array(recorded["vectors"][1], jnp.float32), params)
    return f, embed(ids, params), args


def test_the_tokenizer_gives_the_recorded_ids(recorded):
    tokenizer = minilm.tokenizer()
    assert [tokenizer.encode(text).ids for text in recorded["sentences"]] == recorded["ids"]


def test_vectors_equal_pytorchs_also_with_padding(params, recorded):
    length = max(map(len, recorded["ids"])) + 3
    run = jax.jit(minilm.vector)
    for ids, expected in zip(recorded["ids"], recorded["vectors"], strict=True):
        padded = jnp.array(ids + [minilm.PADDING] * (length - len(ids)))
        np.testing.assert_allclose(run(padded, params), expected, atol=1e-6)
    alone = minilm.vector(jnp.array(recorded["ids"][1]), params)
    np.testing.assert_allclose(alone, recorded["vectors"][1], atol=1e-6)


def test_the_gradient_at_the_embeddings_equals_pytorchs(problem, recorded):
    f, x, args = problem
    assert float(f(x, *args)) == pytest.approx(recorded["cosines"][0][1], abs=1e-6)
    gradient = xattr.gradient(f, x, args=args)
    product = xattr.tokens.per_token(gradient * x)
    np.testing.assert_allclose(product, recorded["gradient_x_embedding_of_the_first"], atol=1e-6)
    norms = jnp.linalg.norm(gradient, axis=1)
    np.testing.assert_allclose(norms, recorded["gradient_norm_of_the_first"], atol=1e-6)


def test_deep_lift_keeps_the_difference_through_norms_softmax_and_gelu(problem):
    f, x, args = problem
    baseline = xattr.tokens.baseline(x, keep=jnp.isin(args[0], jnp.array([101, 102])))
    a = xattr.deep_lift(f, x, baseline, args=args)
    change = f(x, *args) - f(baseline, *args)
    assert abs(float(change)) > 0.5
    assert float(a.sum()) == pytest.approx(float(change), abs=1e-5)
    np.testing.assert_array_equal(a[jnp.array([0, -1])], 0)  # the markers do not change


def test_a_damaged_file_is_an_error_that_names_it(tmp_path):
    header = {"a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}}
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    data = struct.pack("<Q", len(text)) + text + np.array([1.0, 2.0], "<f4").tobytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    found = safetensors.read(path)
    assert list(found) == ["a"]
    np.testing.assert_array_equal(found["a"], [[1.0], [2.0]])
    for damaged in (data[:-1], data[:20], b"", data.replace(b"F32", b"F99")):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"model\.safetensors: expected weights"):
            safetensors.read(path)
    with pytest.raises(DataError, match="missing"):
        safetensors.read(tmp_path / "missing")


def test_weights_of_another_network_are_an_error(tmp_path):
    text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "other"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(DataError, match=r"other: expected the tensor .* of MiniLM"):
        minilm.load(path)
