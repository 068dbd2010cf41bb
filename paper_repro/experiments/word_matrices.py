"""Not an experiment: what a translator attributes each of its words to, and how often it is right.

A matrix has a row for each word of the translation and a column for each word of the source. Pieces
of a word are taken together: log p of a word is the sum of those of its pieces, and attributions
are sums.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro.data import pieces
from paper_repro.data.pieces import Cut
from paper_repro.networks import translator_training as training
from paper_repro.networks.translator import Translator
from paper_repro.networks.translator_training import Corpus

METHODS = ("integrated gradients", "gradient ⊙ input", "gradient", "attention")


class Sentence(NamedTuple):
    """A held-out clause in pieces, with the network's own translation of it."""

    source: Cut
    target: Cut
    reference: str

    @property
    def words(self) -> tuple[list[str], list[str]]:
        """The words of source and translation."""
        return pieces.joined(self.source.names), pieces.joined(self.target.names)


class Network(NamedTuple):
    """A trained translator and its pieces; sentences have at most `length` of them."""

    model: Translator
    params: Any
    corpus: Corpus
    length: int


class Explained(NamedTuple):
    """The matrices of one translation, by the name of the method."""

    matrices: dict[str, np.ndarray]
    change: np.ndarray
    """log p(word) − log p(word) at the baseline, in nats, for each word of the translation."""
    markers: float
    """The largest |attribution| of a marker."""

    @property
    def gaps(self) -> np.ndarray:
        """By how much the row of each word misses the change, in nats."""
        return self.matrices[METHODS[0]].sum(axis=1) - self.change


def translated(network: Network, texts: Iterable[tuple[str, str]]) -> list[Sentence]:
    """Translate the texts that are short enough; each has its reference beside it."""
    cut = pieces.cutter(network.corpus.source)
    cuts = [(cut(text), reference) for text, reference in texts]
    cuts = [each for each in cuts if len(each[0].ids) <= network.length]
    rows = [source.ids for source, _ in cuts]
    found = training.translations(network.model, network.params, rows, length=network.length)
    return [
        Sentence(source, _spelled(network.corpus.target.names, ids), reference)
        for (source, reference), ids in zip(cuts, found, strict=True)
    ]


def _spelled(vocabulary: Sequence[str], ids: Sequence[int]) -> Cut:
    names = [vocabulary[i] for i in ids]
    places = (np.cumsum([name.startswith("_") for name in names], dtype=int) - 1).tolist()
    return Cut([pieces.START, *names, pieces.END], [1, *ids, 2], [-1, *places, -1])


def explainer(network: Network, *, length: int, nodes: int) -> Callable[[Sentence], Explained]:
    """Return the function that attributes each word of a translation to the source's words.

    f is log p of each piece, given the pieces before it in the network's own translation. The
    baseline is zero embeddings, but those of the markers. All pieces are one batch of gradients.

    Args:
        network: a trained translator.
        length: source and translation are padded to so many pieces.
        nodes: of the integral, by Gauss and Legendre.
    """
    embed, f = xattr.tokens.at_embedding(functools.partial(log_probabilities, network.model))
    ig = functools.partial(
        xattr.integrated_gradients, quadrature=xattr.quadrature.gauss_legendre(nodes)
    )
    integrate = xattr.tokens.every_output(ig)
    differentiate = xattr.tokens.every_output(xattr.gradient)
    look = jax.jit(functools.partial(attention, network.model))
    value = jax.jit(f)

    def explain(sentence: Sentence) -> Explained:
        ids, target = (
            jnp.asarray(training.padded([cut.ids], length)[0])
            for cut in (sentence.source, sentence.target)
        )
        args = (ids, target, network.params)
        x = embed(*args)
        x0 = xattr.tokens.baseline(x, keep=ids < 3)  # padding and the two markers
        pieces_of = [_membership(cut, length) for cut in (sentence.source, sentence.target)]
        integrated, gradient = (
            np.asarray(method)
            for method in (integrate(f, x, x0, args=args), differentiate(f, x, args=args))
        )
        found = {
            "integrated gradients": integrated.sum(axis=2),
            "gradient ⊙ input": (gradient * np.asarray(x - x0)).sum(axis=2),
        }
        matrices = {name: _of_words(scores, *pieces_of) for name, scores in found.items()}
        matrices["gradient"] = _norms(gradient, *pieces_of)
        weights = np.asarray(look(*args))
        matrices["attention"] = _of_words(weights, *pieces_of)
        matrices["attention"] /= pieces_of[1].sum(axis=1, keepdims=True)
        change = pieces_of[1] @ np.asarray(value(x, *args) - value(x0, *args))
        markers = np.abs(integrated[:, np.asarray(ids) < 3]).max()
        return Explained(matrices, change, float(markers))

    return explain


def log_probabilities(
    model: Translator, source: jax.Array, target: jax.Array, params: Any
) -> jax.Array:
    """Return log p of each piece of a translation, given those before it; 0 for padding.

    Args:
        model: a translator.
        source: ids of pieces, (S,).
        target: ids of pieces with the start marker, (T,).
        params: of the model.

    Returns:
        (T,): the first is that of the start marker, which is given: 0.
    """
    logits = model.apply({"params": params}, source, target)
    scores = jax.nn.log_softmax(logits)[:-1]
    following = target[1:]
    chosen = jnp.take_along_axis(scores, following[:, None], axis=1)[:, 0]
    return jnp.pad(jnp.where(following > 0, chosen, 0), (1, 0))


def attention(model: Translator, source: jax.Array, target: jax.Array, params: Any) -> jax.Array:
    """Return the weights (T, S) with which each piece of a translation was predicted."""
    apply = functools.partial(model.apply, {"params": params})
    memory = apply(apply(source, method="embed"), source > 0, method="encode")
    weights = apply(memory, target, method="decode")[1]
    return jnp.pad(weights[:-1], ((1, 0), (0, 0)))


def _membership(cut: Cut, length: int) -> np.ndarray:
    """Return which pieces are of which word: (words, length), 0 or 1."""
    places = np.array([*cut.words, *[-1] * (length - len(cut.words))])
    return (np.arange(max(cut.words) + 1)[:, None] == places[None]).astype(np.float64)


def _of_words(scores: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    return target @ scores @ source.T


def _norms(gradient: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the norm of the gradient of log p(word) with respect to all of a source word."""
    of_word = np.einsum("wt,tsd->wsd", target, gradient)
    return np.sqrt((of_word**2).sum(axis=2) @ source.T)


def hits(
    sentences: Iterable[tuple[Sentence, Explained]],
    origin: Callable[[Sequence[str], str], str | None],
) -> dict[str, np.ndarray]:
    """Return for each method whether the largest entry of a word's row is where it comes from.

    Args:
        sentences: translations and their matrices.
        origin: from source words and a word of the translation to the source word that it comes
            from; None leaves the word out.

    Returns:
        For each method an array with 1 or 0 for each word; under "chance" the share of the source's
        words that would be right.
    """
    found: dict[str, list[float]] = {name: [] for name in (*METHODS, "chance")}
    for sentence, explained in sentences:
        source, target = sentence.words
        for row, word in enumerate(target):
            if (expected := origin(source, word)) is None:
                continue
            right = np.array([each == expected for each in source])
            found["chance"].append(float(right.mean()))
            for name in METHODS:
                best = int(np.argmax(explained.matrices[name][row]))
                found[name].append(float(right[best]))
    return {name: np.array(values) for name, values in found.items()}


def listed(pairs: Mapping[str, str], source: Sequence[str], word: str) -> str | None:
    """Return the English word of a list, if the source has it."""
    expected = pairs.get(word)
    return expected if expected in source else None
