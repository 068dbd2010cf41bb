"""Attributions of the next word of a text to the words before, and what the network misses."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro.data.sections import Place
from paper_repro.data.text import UNKNOWN, Corpus
from paper_repro.networks import lstm

REPLACED = "replaced"
METHODS = ("IG", "gradient ⊙ input", "gradient, norm", REPLACED)


def explained(
    recipe: lstm.Recipe, params: Any, places: Iterable[Place], corpus: Corpus, nodes: int
) -> list[dict[str, Any]]:
    """Return the values of each word before, by each method, with the scores.

    They explain the probability of the next word. The baseline is zero embeddings. `REPLACED` is by
    how much the score falls if the word is `<unk>`.
    """
    one = _attribution(recipe, corpus.words.index(UNKNOWN), nodes)
    found = []
    for place in places:
        values = one(place.ids, np.int32(place.target), params)
        found.append({"place": place, **jax.tree.map(np.asarray, values)})
    return found


def _attribution(recipe: lstm.Recipe, unknown: int, nodes: int) -> Any:
    embed, rest = xattr.tokens.at_embedding(functools.partial(lstm.next_word, recipe))
    f = xattr.targets.probability(rest)
    quadrature = xattr.quadrature.gauss_legendre(nodes)

    def without(place: Any, ids: Any, target: Any, params: Any) -> Any:
        ids = ids.at[place].set(unknown)
        return f(embed(ids, params), target, ids, params)

    def one(ids: Any, target: Any, params: Any) -> dict[str, Any]:
        x, args = embed(ids, params), (target, ids, params)
        slope = xattr.gradient(f, x, args=args)
        whole = xattr.integrated_gradients(f, x, quadrature=quadrature, args=args)
        each = jax.vmap(without, (0, None, None, None))(jnp.arange(len(ids)), ids, target, params)
        return {
            "IG": xattr.tokens.per_token(whole),
            "gradient ⊙ input": xattr.tokens.per_token(slope * x),
            "gradient, norm": jnp.sqrt(jnp.sum(slope**2, axis=-1)),
            REPLACED: f(x, *args) - each,
            "score": f(x, *args),
            "start": f(jnp.zeros_like(x), *args),
        }

    return jax.jit(one)


def rates(explained: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how often a word has the largest value, for each method.

    The word is the one to blame by the rule, or the one that the network misses most: the score
    falls most when it is replaced. "lost" is the share of the score that goes with the one to
    blame.
    """
    best = {method: np.array([each[method].argmax() for each in explained]) for method in METHODS}
    causes = np.array([each["place"].cause for each in explained])
    return {
        "sections": len(explained),
        "chance": float(np.mean([1 / len(each["place"].ids) for each in explained])),
        "hits": {method: places == causes for method, places in best.items()},
        "missed": {method: places == best[REPLACED] for method, places in best.items()},
        "lost": np.array([e[REPLACED][e["place"].cause] / e["score"] for e in explained]),
    }


def completeness(explained: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how far sums are from the change of the score, as shares of the score."""
    score, start = (np.array([e[key] for e in explained], float) for key in ("score", "start"))
    total = np.array([each["IG"].sum() for each in explained], float)
    gradient = np.array([each["gradient ⊙ input"].sum() for each in explained], float)
    return {
        "gap": np.abs(total - (score - start)) / score,
        "gradient, share of the score": np.abs(gradient) / score,
    }
