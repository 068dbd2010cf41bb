"""Word pieces: byte-pair encoding, learned from the words of a text.

"_morning" is a piece that begins a word, as the paper's figure writes it, and "ing" one that does
not.
"""

import collections
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
PADDING = ""
SPECIAL = (PADDING, START, END, UNKNOWN)
"""The first four pieces of every vocabulary; padding has the number 0."""
Places: TypeAlias = dict[tuple[str, str], dict[str, None]]
"""The words that have a pair of neighbours, in the order in which they were seen."""


def words_of(text: str) -> list[str]:
    """Split a text into words and marks; an apostrophe inside a word belongs to it."""
    return re.findall(r"\w+(?:[`'’]\w+)*|[^\w\s]", text)


class Pieces(NamedTuple):
    """A vocabulary: merges in the order in which they were learned, and the pieces by number."""

    merges: dict[tuple[str, str], int]
    names: list[str]

    def numbers(self) -> dict[str, int]:
        """Return the number of each piece."""
        return {name: number for number, name in enumerate(self.names)}

    def cut(self, word: str) -> list[str]:
        """Cut a word into pieces: the merges learned first are made first."""
        parts = ["_" + word[0], *word[1:]]
        while len(parts) > 1:
            ranks = [self.merges.get(pair, len(self.merges)) for pair in itertools.pairwise(parts)]
            at = ranks.index(min(ranks))
            if ranks[at] == len(self.merges):
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return parts


def learn(words: Iterable[str], merges: int) -> Pieces:
    """Learn pieces: merge the most frequent neighbours, and repeat that.

    Args:
        words: the words of a text, with repetitions.
        merges: how many pairs are merged, at most.

    Source: Sennrich, Haddow & Birch 2016, "Neural machine translation of rare words with subword
    units", algorithm 1. Ties go to the pair that was seen first.
    """
    counts = collections.Counter(words)
    parts = {word: ["_" + word[0], *word[1:]] for word in counts}
    letters = sorted({part for cut in parts.values() for part in cut})
    pairs: collections.Counter[tuple[str, str]] = collections.Counter()
    places: Places = collections.defaultdict(dict)
    for word, cut in parts.items():
        _count(word, cut, counts[word], pairs, places)
    learned: dict[tuple[str, str], int] = {}
    for number in range(merges):
        best = max(pairs, key=pairs.__getitem__, default=("", ""))
        if pairs[best] < 2:
            break
        learned[best] = number
        for word in places.pop(best):
            _count(word, parts[word], -counts[word], pairs, places)
            parts[word] = merged(parts[word], best)
            _count(word, parts[word], counts[word], pairs, places)
        del pairs[best]
    return Pieces(learned, [*SPECIAL, *letters, *("".join(pair) for pair in learned)])


def _count(
    word: str,
    cut: Sequence[str],
    count: int,
    pairs: collections.Counter[tuple[str, str]],
    places: Places,
) -> None:
    """Add `count` to every pair of neighbours of a word; note where the pair is."""
    for pair in itertools.pairwise(cut):
        pairs[pair] += count
        if count > 0:
            places[pair][word] = None


def merged(cut: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """Replace each occurrence of a pair of neighbours by their concatenation."""
    found, at = [], 0
    while at < len(cut):
        if tuple(cut[at : at + 2]) == pair:
            found.append("".join(pair))
            at += 2
        else:
            found.append(cut[at])
            at += 1
    return found


class Cut(NamedTuple):
    """A text in pieces: names, numbers, and the place of the word that each piece is of.

    Markers belong to no word: −1.
    """

    names: list[str]
    ids: list[int]
    words: list[int]


def cut(pieces: Pieces, text: str) -> Cut:
    """Cut a text into pieces between the two markers."""
    return cutter(pieces)(text)


def cutter(pieces: Pieces) -> Callable[[str], Cut]:
    """Return the function that cuts a text; it remembers the words that it has seen."""
    numbers, parts = pieces.numbers(), functools.cache(pieces.cut)

    def cut(text: str) -> Cut:
        found = [(name, place) for place, word in enumerate(words_of(text)) for name in parts(word)]
        names, places = zip(*[(START, -1), *found, (END, -1)], strict=True)
        ids = [numbers.get(name, numbers[UNKNOWN]) for name in names]
        return Cut(list(names), ids, list(places))

    return cut


def joined(names: Iterable[str]) -> list[str]:
    """Return the words that pieces spell; markers and padding are left out."""
    text = "".join(name for name in names if name not in SPECIAL)
    return [word for word in text.split("_") if word]
