"""IBM model 1: which source word a target word comes from, learned from pairs of sentences."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

NULL = "<null>"
"""Stands in every source for words that come from no word."""


class Alignment(NamedTuple):
    """Probabilities t(target word | source word) of the pairs that were seen together."""

    source: dict[str, int]
    target: dict[str, int]
    keys: np.ndarray
    """source number × number of target words + target number, in order."""
    values: np.ndarray
    """t of each key; the sum over the target words of one source word is 1."""

    def probability(self, source: str, target: str) -> float:
        """Return t(target | source); 0 for words that were never seen together."""
        if source not in self.source or target not in self.target:
            return 0.0
        key = self.source[source] * len(self.target) + self.target[target]
        at = int(np.searchsorted(self.keys, key))
        found = at < len(self.keys) and self.keys[at] == key
        return float(self.values[at]) if found else 0.0

    def best(self, source: Sequence[str], target: str) -> int:
        """Return the place of the source word that a target word comes from; −1 for none.

        That is argmaxᵢ t(target | sourceᵢ), or −1 where `NULL` has a larger t than every word, and
        for words that were never seen together.
        """
        chances = [self.probability(word, target) for word in source]
        at = int(np.argmax(chances))
        return at if chances[at] > self.probability(NULL, target) else -1

    def likeliest(self) -> dict[str, tuple[str, float]]:
        """Return for each source word the target word of the largest t, and that t."""
        owner = self.keys // len(self.target)
        order = np.lexsort((self.values, owner))
        last = order[np.append(np.diff(owner[order]) > 0, True)]
        names = [list(self.source), list(self.target)]
        return {
            names[0][owner[at]]: (names[1][self.keys[at] % len(self.target)], self.values[at])
            for at in last
        }


def learn(
    pairs: Iterable[tuple[Sequence[str], Sequence[str]]], rounds: int = 5, *, null: bool = True
) -> Alignment:
    """Learn t by expectation maximization, from equal probabilities.

    Each round counts c(g | e) = Σ t(g | e) / Σᵢ t(g | eᵢ) over all pairs, where eᵢ are the words of
    the source, and then sets t(g | e) = c(g | e) / Σ_g c(g | e).

    Args:
        pairs: source and target sentences in words.
        rounds: of counting.
        null: add the empty word `NULL` to each source.

    Source: Brown et al. 1993, "The mathematics of statistical machine translation", §4.1.
    """
    source, target, links, sums = _links(pairs, null)
    keys, places = np.unique(links, return_inverse=True)
    owner = keys // len(target)
    values = np.full(len(keys), 1 / len(target))
    for _ in range(rounds):
        share = values[places]
        share /= np.bincount(sums, share)[sums]
        counts = np.bincount(places, share)
        values = counts / np.bincount(owner, counts, len(source))[owner]
    return Alignment(source, target, keys, values)


def _links(
    pairs: Iterable[tuple[Sequence[str], Sequence[str]]], null: bool
) -> tuple[dict[str, int], dict[str, int], np.ndarray, np.ndarray]:
    """Return both vocabularies, the key of every link, and the target occurrence it belongs to."""
    source: dict[str, int] = {}
    target: dict[str, int] = {}
    numbered = [
        (
            np.array([source.setdefault(word, len(source)) for word in [NULL] * null + [*left]]),
            np.array([target.setdefault(word, len(target)) for word in right]),
        )
        for left, right in pairs
    ]
    ends = np.cumsum([0, *(len(right) for _, right in numbered)])
    links = [np.add.outer(right, left * len(target)).ravel() for left, right in numbered]
    sums = [
        np.repeat(np.arange(len(right)) + end, len(left))
        for (left, right), end in zip(numbered, ends[:-1], strict=True)
    ]
    return source, target, np.concatenate(links), np.concatenate(sums)


def mutual(ahead: Alignment, back: Alignment, least: float = 0.3) -> list[tuple[str, str]]:
    """Return the pairs of words of which each is the likeliest for the other.

    Both probabilities are at least `least`.
    """
    there, here = ahead.likeliest(), back.likeliest()
    return [
        (word, other)
        for word, (other, chance) in there.items()
        if here.get(other, ("", 0.0))[0] == word and min(chance, here[other][1]) >= least
    ]
