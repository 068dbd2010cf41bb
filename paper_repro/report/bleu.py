"""BLEU of a set of translations, each with one reference."""

import collections
import math
from collections.abc import Sequence
from typing import NamedTuple


class Bleu(NamedTuple):
    """The score in per cent and what it is made of."""

    score: float
    """100 · BP · exp(¼ Σₙ log pₙ)."""
    precisions: tuple[float, ...]
    """pₙ: the share of the translations' runs of n words that the references have."""
    brevity: float
    """BP: 1, or exp(1 − r/c) for translations of c words that are shorter than r."""


def bleu(
    translations: Sequence[Sequence[str]], references: Sequence[Sequence[str]], longest: int = 4
) -> Bleu:
    """Return the BLEU of lists of words against lists of words.

    A run of words counts as often as its own reference has it, at most. The counts are summed over
    all translations before they are divided.

    Source: Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine translation".
    """
    precisions = []
    for n in range(1, longest + 1):
        right = total = 0
        for translation, reference in zip(translations, references, strict=True):
            found, known = _runs(translation, n), _runs(reference, n)
            right += (found & known).total()
            total += found.total()
        precisions.append(right / total if total else 0.0)
    lengths = [sum(map(len, side)) for side in (references, translations)]
    brevity = min(1.0, math.exp(1 - lengths[0] / lengths[1])) if lengths[1] else 0.0
    mean = math.prod(precisions) ** (1 / longest)
    return Bleu(100 * brevity * mean, tuple(precisions), brevity)


def _runs(words: Sequence[str], n: int) -> collections.Counter[tuple[str, ...]]:
    return collections.Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
