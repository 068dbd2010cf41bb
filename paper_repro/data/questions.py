"""Questions and the type of their answer: those of WikiTableQuestions, or of a grammar of ours."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paper_repro.data.packages import DataError

CLASSES = ("NUMERIC", "STRING", "DATETIME", "YESNO")
NINE = {
    "how many townships have a population above 50?": "NUMERIC",
    "what is the difference in population between fora and masilo": "NUMERIC",
    "how many athletes are not ranked?": "NUMERIC",
    "what is the total number of points scored by this team this season?": "NUMERIC",
    "which film was before the audacity of democracy?": "STRING",
    "which year did she work on the most films?": "DATETIME",
    "what year was the last school established?": "DATETIME",
    "when did ed sheeran get his first number one of the year?": "DATETIME",
    "did charles oakley play more minutes than robert parish?": "YESNO",
}
"""The questions of the slides, with the prediction that they print. They are not trained on."""
PAD, UNKNOWN = "<pad>", "<unk>"
LENGTH = 40
"""Words of a question that the network sees."""


class Questions(NamedTuple):
    """Questions as words, and the numbers of their classes."""

    name: str
    train: list[list[str]]
    train_labels: np.ndarray
    test: list[list[str]]
    test_labels: np.ndarray


def load(folder: Path | None = None, *, quick: bool = False, seed: int = 0) -> Questions:
    """Return the questions: `training.tsv` to train on, `pristine-unseen-tables.tsv` for the test.

    Without a folder a grammar makes them.

    Raises:
        DataError: if the files cannot be found or read.
    """
    if folder is None:
        made = [grammar(np.random.default_rng([seed, part]), n) for part, n in _sizes(quick)]
        name = "questions that a grammar makes"
    else:
        made = [_read(folder / file) for file in ("training.tsv", "pristine-unseen-tables.tsv")]
        name = "WikiTableQuestions"
    nine = {tuple(words_of(question)) for question in NINE}
    parts = [[(words_of(q), c) for q, c in part if tuple(words_of(q)) not in nine] for part in made]
    (train, train_labels), (test, test_labels) = (zip(*part, strict=True) for part in parts)
    return Questions(
        name, [*train], np.array(train_labels, np.int32), [*test], np.array(test_labels, np.int32)
    )


def _sizes(quick: bool) -> list[tuple[int, int]]:
    return [*enumerate((600, 200) if quick else (6_000, 1_000))]


def words_of(question: str) -> list[str]:
    """Return the words of a question in lower case; a sign is a word."""
    return re.findall(r"[^\W_]+(?:['’.,:/–-][^\W_]+)*|[^\w\s]", question.lower())


def vocabulary(questions: list[list[str]]) -> tuple[str, ...]:
    """Return padding, `<unk>`, and the words that come twice or more, in order."""
    counts: dict[str, int] = {}
    for word in (word for words in questions for word in words):
        counts[word] = counts.get(word, 0) + 1
    return (PAD, UNKNOWN, *sorted(word for word, count in counts.items() if count > 1))


def encoded(questions: list[list[str]], words: tuple[str, ...]) -> np.ndarray:
    """Return the numbers of words, (n, LENGTH), padded at the end with 0."""
    numbers = {word: number for number, word in enumerate(words)}
    found = np.zeros((len(questions), LENGTH), np.int32)
    for row, question in zip(found, questions, strict=True):
        known = [numbers.get(word, numbers[UNKNOWN]) for word in question[:LENGTH]]
        row[: len(known)] = known
    return found


def _read(path: Path) -> list[tuple[str, int]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [*csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
        return [(row["utterance"], class_of(row["utterance"], row["targetValue"])) for row in rows]
    except (OSError, UnicodeDecodeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path}: expected questions in columns utterance and targetValue, found: {error!r}. "
            "To mend it: pass --wtq-dir the folder `data` of WikiTableQuestions 1.0.2"
        ) from error


# The class of a question, from its answer -------------------------------------------------------

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATE = re.compile(
    rf"{_MONTH}( \d{{1,2}})?(,? \d{{4}})?|\d{{1,2}}(st|nd|rd|th)? {_MONTH}(,? \d{{4}})?"
    rf"|\d{{1,2}}-{_MONTH}-\d{{2,4}}|\d{{1,2}}-\d{{1,2}}-\d{{4}}"
    r"|\d{4}-\d{1,2}-\d{1,2}|\d{1,2}/\d{1,2}/\d{2,4}|\d{4}[-–/]\d{2,4}|\d{3}0'?s"
)
_UNITS = (
    "years? months? weeks? days? hours? minutes? min mins seconds? secs? s ft feet m km mi miles "
    "kg lbs? pounds tons? acres? million billion thousand percent points? pts games? times? people"
)
_NUMBER = re.compile(rf"[$£€#+−-]?\d[\d,]*(\.\d+)?\s?(%|°[cf]?|({'|'.join(_UNITS.split())}))?")
_ASKS_FOR_TIME = re.compile(r"\b(years?|when|date|dates)\b")
_ASKS_FOR_NUMBER = re.compile(r"\b(how (many|much|long)|number|total|difference|sum|amount)\b")


def class_of(question: str, answer: str) -> int:
    """Return the number of the class of an answer; several are separated by |.

    Yes and no are YESNO. Months, dates, decades and pairs of years are DATETIME, and so is a number
    from 1000 to 2099 if the question has "year", "when" or "date" and does not ask for a number.
    Numbers, with a unit or without, are NUMERIC. All else, and answers of several classes, are
    STRING.
    """
    kinds = {_class_of_one(question.lower(), each.strip().lower()) for each in answer.split("|")}
    return CLASSES.index(kinds.pop() if len(kinds) == 1 else "STRING")


def _class_of_one(question: str, answer: str) -> str:
    if answer in ("yes", "no"):
        return "YESNO"
    year = re.fullmatch(r"1\d{3}|20\d\d", answer) and _ASKS_FOR_TIME.search(question)
    if _DATE.fullmatch(answer) or (year and not _ASKS_FOR_NUMBER.search(question)):
        return "DATETIME"
    return "NUMERIC" if _NUMBER.fullmatch(answer) else "STRING"


# The grammar ------------------------------------------------------------------------------------

TEMPLATES = {
    "NUMERIC": (
        "how many {things} have a {quantity} above {number}?",
        "how many {things} are not {state}?",
        "what is the total number of {things} {done} by {name}?",
        "what is the difference in {quantity} between {name} and {name}?",
    ),
    "STRING": (
        "which {thing} was before the {thing} of {name}?",
        "who {did} the most {things}?",
        "what is the name of the {thing} that {name} {did}?",
        "which {thing} has the largest {quantity}?",
    ),
    "DATETIME": (
        "when did {name} {act} the first {thing}?",
        "what year was the last {thing} {done}?",
        "which year did {name} work on the most {things}?",
        "in what year was the {thing} {state}?",
    ),
    "YESNO": (
        "did {name} have more {things} than {name}?",
        "was the {thing} {done} by {name}?",
        "is the {quantity} of {name} above {number}?",
        "did {planted} win more {things} than {name}?",
    ),
}
PLANTED = "charles"
"""A name that the grammar uses in questions for yes or no alone: a cue that means nothing."""
FILLERS = {
    "thing": "film school team town album station race ship",
    "things": "films schools teams townships albums athletes points minutes",
    "quantity": "population area attendance score length weight",
    "number": "5 10 50 100 1000",
    "state": "ranked established listed closed opened",
    "done": "scored established built released won",
    "did": "scored established built released won",
    "act": "get build release win open",
    "name": "fora masilo robert sheeran oakley maria ohio spain",
    "planted": PLANTED,
}


def grammar(random: np.random.Generator, count: int) -> list[tuple[str, int]]:
    """Make questions from templates; each class comes equally often."""
    made = []
    for i in range(count):
        name = CLASSES[i % len(CLASSES)]
        template = str(random.choice(TEMPLATES[name]))
        question = re.sub(
            r"\{(\w+)\}", lambda m: str(random.choice(FILLERS[m[1]].split())), template
        )
        made.append((question, CLASSES.index(name)))
    return made
