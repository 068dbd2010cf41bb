"""Sections of a text and the word after each, chosen by rules: which word before predicts it."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from paper_repro.data.text import END, UNKNOWN, Corpus

WORDS = 10
"""Words before the one that is predicted; `REPEATED` words for one that repeats."""
REPEATED = 12


class Place(NamedTuple):
    """A word of the test text to explain: what stands before it, and the word to blame."""

    ids: np.ndarray
    target: int
    cause: int
    """Where in `ids` the word is that predicts the target."""


def cues(corpus: Corpus) -> list[Place]:
    """Find words of the test text that the word before them predicts, by pairs of the training.

    After the cue the word comes at least every second time, the cue comes 50 times, and the word
    is at most 2 % of the text. The cue stands once among the ten words before.
    """
    train, test = corpus.train, corpus.test
    count = np.bincount(train, minlength=len(corpus.words))
    pairs = Counter(zip(train[:-1].tolist(), train[1:].tolist(), strict=True))
    marks = {corpus.words.index(mark) for mark in (UNKNOWN, END)}
    found = []
    for i in range(WORDS, len(test)):
        cue, target, before = int(test[i - 1]), int(test[i]), test[i - WORDS : i]
        often = count[cue] >= 50 and pairs[cue, target] >= 0.5 * count[cue]
        if not often or count[target] > 0.02 * len(train) or {cue, target} & marks:
            continue
        if (before == cue).sum() == 1:
            found.append(Place(before, target, WORDS - 1))
    return found


def repetitions(corpus: Corpus) -> list[Place]:
    """Find rare words of the test text that stand once among the twelve words before.

    Rare is at most 100 times in the training text. The word right before does not count.
    """
    test, count = corpus.test, np.bincount(corpus.train, minlength=len(corpus.words))
    marks = {corpus.words.index(mark) for mark in (UNKNOWN, END)}
    found = []
    for i in range(REPEATED, len(test)):
        target, before = int(test[i]), test[i - REPEATED : i]
        places = np.flatnonzero(before == target)
        once = len(places) == 1 and places[0] < REPEATED - 1
        if once and count[target] <= 100 and target not in marks:
            found.append(Place(before, target, int(places[0])))
    return found


def drawn(places: list[Place], most: int, seed: int) -> list[Place]:
    """Draw places, and keep them in the order of the text."""
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(places))[:most]
    return [places[i] for i in sorted(chosen)]
