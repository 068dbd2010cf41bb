"""Words that tell a class, from attributions: the largest means, and a list of rules."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from paper_repro.data.questions import CLASSES

_ASKING = """
how many much long often old far big when what which who whom whose where why name list tell year
years date dates time times day days month months season seasons number numbers total amount
difference sum average combined together count counted at least most more less fewer than only first
last next previous before after same different or and both between did does do is are was were has
have had be been being can could will would should there any all each every either the a an of in on
by to for from with as that this these those it its they their he his he she her not no other above
below listed ? , . ' " : ; ( ) & # - / ! $ %
"""
ASKING = frozenset(_ASKING.split())
"""Words that ask, auxiliaries, and words of number, order and time. Any other does not ask."""
MOST = 8
"""Words that are listed."""
CANDIDATES = 60
"""Triggers of each class among which rules are chosen."""
RULES = 20
PENALTY = 4
"""A question that a rule gets wrong counts as much as so many that it gets right."""


class Explained(NamedTuple):
    """Questions with the attributions of their words to the predicted class."""

    words: list[list[str]]
    classes: np.ndarray
    """What the network says."""
    scores: np.ndarray
    changes: np.ndarray
    """The score less that of the baseline."""
    padding: np.ndarray
    """The largest |attribution| of padding."""
    maps: dict[str, list[np.ndarray]]
    """One number a word, for each method."""

    @property
    def sums(self) -> np.ndarray:
        """The sum of the attributions of each question."""
        return np.array([values.sum() for values in self.maps["IG"]])


class Rule(NamedTuple):
    """If a question has the trigger, it is of the class; an empty trigger is in every question."""

    trigger: str
    label: int
    covered: int
    right: int


def grams(words: Sequence[str], length: int) -> Iterator[tuple[str, slice]]:
    """Yield each run of `length` words with its place."""
    for i in range(len(words) - length + 1):
        yield " ".join(words[i : i + length]), slice(i, i + length)


def _totals(
    explained: Explained, length: int, method: str
) -> dict[int, dict[str, tuple[float, int]]]:
    """Return the sum of attributions and the count of each run of words, for each class."""
    found: dict[int, Any] = defaultdict(lambda: defaultdict(lambda: (0.0, 0)))
    for i, (words, label) in enumerate(zip(explained.words, explained.classes, strict=True)):
        for gram, place in grams(words, length):
            value = 1.0 if method == "frequency" else float(explained.maps[method][i][place].sum())
            total, count = found[int(label)][gram]
            found[int(label)][gram] = (total + value, count + 1)
    return found


def largest(explained: Explained, length: int) -> dict[str, list[tuple[str, float, int]]]:
    """Return, for each predicted class, the runs of words with the largest mean attribution.

    Each comes with its mean and its count, which is three or more, and at least one for every 200
    questions of the class.
    """
    totals = _totals(explained, length, "IG")
    found = {}
    for number, label in enumerate(CLASSES):
        least = max(3, int((explained.classes == number).sum()) // 200)
        means = [(g, t / n, n) for g, (t, n) in totals[number].items() if n >= least and t > 0]
        found[label] = sorted(means, key=lambda each: (-each[1], each[0]))[:MOST]
    return found


def silent(
    explained: Explained, questions: Sequence[Sequence[str]], labels: np.ndarray
) -> dict[str, list[tuple[str, float, int, float]]]:
    """Return the words with the largest mean attribution that do not ask, for each class.

    Each comes with its mean, its count, and the share of the class among the training questions
    that have the word; NaN if none has it.
    """
    kept = [
        explained.maps["IG"][i] * np.array([word not in ASKING for word in words], float)
        for i, words in enumerate(explained.words)
    ]
    found = {}
    listed = largest(explained._replace(maps={"IG": kept}), 1)
    for number, (label, entries) in enumerate(listed.items()):
        having = [labels[_has(word, questions)] == number for word, *_ in entries]
        shares = [float(each.mean()) if each.size else float("nan") for each in having]
        found[label] = [(*each, share) for each, share in zip(entries, shares, strict=True)]
    return found


def distil(explained: Explained, method: str) -> list[Rule]:
    """Return a list of rules for what the network says, from triggers of large attribution.

    The last rule is the default.
    """
    candidates = []
    for length in (1, 2):
        for label, grams_of in _totals(explained, length, method).items():
            ranked = sorted(grams_of.items(), key=lambda each: (-each[1][0], each[0]))
            candidates += [(gram, label) for gram, (total, _) in ranked[:CANDIDATES] if total > 0]
    covers = {gram: _has(gram, explained.words) for gram, _ in candidates}
    left = np.ones(len(explained.words), bool)
    rules: list[Rule] = []
    while len(rules) < RULES and left.any():
        made = [_rule(g, c, covers[g] & left, explained.classes) for g, c in candidates]
        best = max(made, key=_gain)
        if _gain(best) <= 0:
            break
        rules.append(best)
        left &= ~covers[best.trigger]
    default = int(np.bincount(explained.classes[left] if left.any() else [0]).argmax())
    return [*rules, _rule("", default, left, explained.classes)]


def _rule(gram: str, label: int, covered: np.ndarray, classes: np.ndarray) -> Rule:
    return Rule(gram, label, int(covered.sum()), int((classes[covered] == label).sum()))


def _gain(rule: Rule) -> int:
    return rule.right - PENALTY * (rule.covered - rule.right)


def _has(gram: str, questions: Sequence[Sequence[str]]) -> np.ndarray:
    """Tell which questions have a run of words."""
    return np.array([f" {gram} " in f" {' '.join(words)} " for words in questions])


def apply(rules: Sequence[Rule], questions: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the class that the first fitting rule gives each question."""
    said = np.full(len(questions), rules[-1].label)
    for rule in rules[-2::-1]:
        said[_has(rule.trigger, questions)] = rule.label
    return said
