"""A small translator: a recurrent encoder and a decoder that attends to it, in flax linen.

The form is that of Bahdanau, Cho & Bengio 2015, "Neural machine translation by jointly learning to
align and translate": gated recurrent units, read from both sides. The attention's score is a
product, as in Luong, Pham & Manning 2015, §3.1.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

Params = Any


class Sizes(NamedTuple):
    """How large the network is."""

    source: int
    """Pieces of the source vocabulary."""
    target: int
    embedding: int
    hidden: int


class Memory(NamedTuple):
    """What the encoder leaves to the decoder."""

    values: jax.Array
    """(S, 2 hidden), one row for each piece of the source."""
    keys: jax.Array
    """(S, hidden), what the attention's scores are products with."""
    mask: jax.Array
    """(S,), whether a piece is no padding."""
    state: jax.Array
    """(hidden,), the decoder's first state."""


class Gated(nn.Module):
    """A gated recurrent unit, without a loop: one step from a state and projected inputs."""

    hidden: int

    @nn.compact
    def __call__(self, state: jax.Array, inputs: jax.Array) -> jax.Array:
        """(hidden,), (3 hidden,) to the next state (hidden,)."""
        kernel = self.param("kernel", nn.initializers.orthogonal(), (self.hidden, 3 * self.hidden))
        reset, update, new = jnp.split(inputs, 3)
        kernels = jnp.split(kernel, 3, axis=1)
        r = jax.nn.sigmoid(reset + state @ kernels[0])
        z = jax.nn.sigmoid(update + state @ kernels[1])
        n = jnp.tanh(new + r * (state @ kernels[2]))
        return z * state + (1 - z) * n


class Translator(nn.Module):
    """One pair of sentences; `jax.vmap` batches it.

    Attributes:
        sizes: of the vocabularies and the layers.
        dropout: the share of embedded and of attended values that training leaves out.
    """

    sizes: Sizes
    dropout: float = 0.0

    def setup(self) -> None:
        """Name the layers."""
        size = self.sizes
        embed = functools.partial(
            nn.Embed, features=size.embedding, embedding_init=nn.initializers.normal(0.1)
        )
        self.source, self.target = embed(size.source), embed(size.target)
        self.forward_in, self.backward_in, self.decoder_in = (
            nn.Dense(3 * size.hidden) for _ in range(3)
        )
        self.forward_cell, self.backward_cell, self.decoder_cell = (
            Gated(size.hidden) for _ in range(3)
        )
        self.context_in = nn.Dense(3 * size.hidden, use_bias=False)
        self.bridge, self.key = nn.Dense(size.hidden), nn.Dense(size.hidden, use_bias=False)
        self.readout = nn.Dense(size.embedding)
        self.bias = self.param("bias", nn.initializers.zeros, (size.target,))
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, source: jax.Array, target: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of each next piece, (T, pieces): ids (S,) and (T,), 0 for padding."""
        memory = self.encode(self.source(source), source > 0, train)
        return self.decode(memory, target, train)[0]

    def embed(self, source: jax.Array) -> jax.Array:
        """Return the embeddings of the source's pieces: ids (S,) to (S, embedding)."""
        return self.source(source)

    def encode(self, embedded: jax.Array, mask: jax.Array, train: bool = False) -> Memory:
        """Read the source from both sides: (S, embedding), (S,) to a `Memory`."""
        embedded = self.drop(embedded, deterministic=not train)
        ahead = self._read(self.forward_cell, self.forward_in(embedded), mask)
        back = self._read(self.backward_cell, self.backward_in(embedded), mask, reverse=True)
        values = jnp.concatenate([ahead, back], axis=1)
        ends = jnp.concatenate([ahead[-1], back[0]])
        return Memory(values, self.key(values), mask, jnp.tanh(self.bridge(ends)))

    def _read(
        self, cell: Gated, inputs: jax.Array, mask: jax.Array, reverse: bool = False
    ) -> jax.Array:
        """Return the state after each piece; padding leaves the state as it is."""

        def step(cell: Gated, state: jax.Array, each: Any) -> tuple[jax.Array, jax.Array]:
            projected, kept = each
            state = jnp.where(kept, cell(state, projected), state)
            return state, state

        start = jnp.zeros(self.sizes.hidden, inputs.dtype)
        scan = nn.scan(
            step, variable_broadcast="params", split_rngs={"params": False}, reverse=reverse
        )
        return scan(cell, start, (inputs, mask))[1]

    def decode(
        self, memory: Memory, target: jax.Array, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Return logits and attention under teacher forcing.

        Args:
            memory: of the encoder.
            target: the pieces before each one to predict, ids (T,); the first is the start marker.
            train: leave values out at random.

        Returns:
            The logits of the next piece (T, pieces), and the weights of the source's pieces (T, S).
        """
        embedded = self.drop(self.target(target), deterministic=not train)
        inputs = self.decoder_in(embedded)

        def step(self: Translator, state: jax.Array, inputs: jax.Array) -> Any:
            state, context, weights = self.advance(memory, state, inputs)
            return state, (state, context, weights)

        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
        _, (states, contexts, weights) = scan(self, memory.state, inputs)
        return self._logits(states, contexts, embedded, train), weights

    def advance(
        self, memory: Memory, state: jax.Array, inputs: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Attend from the state, and go one piece on: the state, its context, the weights."""
        scores = memory.keys @ state / self.sizes.hidden**0.5
        weights = jax.nn.softmax(jnp.where(memory.mask, scores, -1e9))
        context = weights @ memory.values
        return self.decoder_cell(state, inputs + self.context_in(context)), context, weights

    def _logits(
        self, states: jax.Array, contexts: jax.Array, embedded: jax.Array, train: bool
    ) -> jax.Array:
        """Return the logits of the next piece; the table of embeddings is the last layer."""
        read = jnp.concatenate([states, contexts, embedded], axis=-1)
        read = self.drop(jnp.tanh(self.readout(read)), deterministic=not train)
        return read @ self.target.embedding.T + self.bias[(None,) * (read.ndim - 1)]

    def one(
        self, memory: Memory, state: jax.Array, piece: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return the next state, and the logits after one more piece."""
        embedded = self.target(piece)
        state, context, _ = self.advance(memory, state, self.decoder_in(embedded))
        return state, self._logits(state, context, embedded, False)


def greedy(model: Translator, params: Params, source: jax.Array, length: int) -> jax.Array:
    """Translate: the likeliest piece, time after time, `length` times; ids (S,) to ids (length,).

    After the end marker (2) all pieces are padding (0).
    """
    apply = functools.partial(model.apply, {"params": params})
    memory = apply(apply(source, method="embed"), source > 0, method="encode")

    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        state, piece, done = carry
        state, logits = apply(memory, state, piece, method="one")
        best = jnp.where(done, 0, jnp.argmax(logits)).astype(source.dtype)
        return (state, best, done | (best == 2)), best

    start = memory.state, jnp.ones((), source.dtype), jnp.zeros((), bool)
    return jax.lax.scan(step, start, length=length)[1]
