"""The rules by which sentences of the language model are chosen, on texts made for them."""

import numpy as np

from paper_repro.data import sections
from paper_repro.data.text import Corpus

WORDS = ("<eos>", "<unk>", "more", "than", "ual", "other", *(f"w{i}" for i in range(40)))
random = np.random.default_rng(0)


def corpus(test, pairs):
    """A training text of fillers, into which pairs of words are put so many times."""
    filler = random.integers(6, 46, 10_000).tolist()
    for (first, second), times in pairs.items():
        filler += [WORDS.index(first), WORDS.index(second), 7] * times
    numbers = np.array([WORDS.index(word) for word in test.split()], np.int32)
    return Corpus("made", WORDS, np.array(filler, np.int32), numbers, numbers)


BEFORE = " ".join(f"w{i}" for i in range(10))


def test_a_cue_predicts_the_word_after_it():
    text = f"{BEFORE} more than w3 w4"
    found = sections.cues(corpus(text, {("more", "than"): 60}))
    assert len(found) == 1
    place = found[0]
    assert WORDS[place.target] == "than"
    assert WORDS[place.ids[place.cause]] == "more"
    assert len(place.ids) == 10


def test_what_is_no_cue():
    text = f"{BEFORE} more than w3 w4"
    rare, unsure = {("more", "than"): 40}, {("more", "than"): 60, ("more", "w1"): 61}
    frequent = {("more", "than"): 60, ("w1", "than"): 400}
    assert not sections.cues(corpus(text, rare))
    assert not sections.cues(corpus(text, unsure))
    assert not sections.cues(corpus(text, frequent))
    twice = f"{BEFORE} more w3 w4 more than"
    assert not sections.cues(corpus(twice, {("more", "than"): 60}))
    assert not sections.cues(corpus(f"{BEFORE} more <unk>", {("more", "<unk>"): 60}))
    assert not sections.cues(corpus("w1 more than", {("more", "than"): 60}))  # too few before


def test_a_rare_word_stands_once_before():
    text = f"w1 w2 w3 ual {BEFORE} ual w5"
    (place,) = sections.repetitions(corpus(text, {("ual", "w1"): 100}))
    assert WORDS[place.target] == WORDS[place.ids[place.cause]] == "ual"
    assert len(place.ids) == 12
    assert place.cause == 1


def test_what_is_no_repetition():
    rare = {("ual", "w1"): 100}
    assert not sections.repetitions(corpus(f"w1 ual {BEFORE} ual", {("ual", "w1"): 101}))
    for text in (f"w1 w2 {BEFORE} ual ual", f"w1 ual {BEFORE} w3 w4 ual", f"ual ual {BEFORE} ual"):
        assert not sections.repetitions(corpus(text, rare))
    assert not sections.repetitions(corpus(f"w1 <unk> {BEFORE} <unk>", rare))


def test_places_are_drawn_by_seed_and_kept_in_order():
    places = [sections.Place(np.zeros(1), i, 0) for i in range(50)]
    drawn = [place.target for place in sections.drawn(places, 10, 0)]
    assert drawn == sorted({*drawn})
    assert len(drawn) == 10
    assert drawn == [place.target for place in sections.drawn(places, 10, 0)]
    assert drawn != [place.target for place in sections.drawn(places, 10, 1)]
    assert len(sections.drawn(places[:3], 10, 0)) == 3
