"""The texts of the language model: words, vocabulary, and what is held out."""

import numpy as np
import pytest

from paper_repro.data import text
from paper_repro.data.packages import DataError


@pytest.fixture
def treebank(tmp_path):
    lines = {"train": "b a a\nc a <unk>\n", "valid": "a d\n", "test": "b\nd b\n"}
    for part, content in lines.items():
        (tmp_path / f"ptb.{part}.txt").write_text(content)
    return tmp_path


def test_a_folder_of_the_treebank(treebank):
    corpus = text.load(treebank)
    assert corpus.words == ("a", "<eos>", "<unk>", "b", "c")  # by count, then by the alphabet
    assert corpus.text(corpus.train) == ["b", "a", "a", "<eos>", "c", "a", "<unk>", "<eos>"]
    assert corpus.text(corpus.test) == ["b", "<eos>", "<unk>", "b", "<eos>"]  # d was never seen
    small = text.load(treebank, size=4)
    assert small.words == ("a", "<eos>", "<unk>", "b")
    assert small.text(small.train)[4] == "<unk>"


def test_a_missing_file_is_named(treebank):
    (treebank / "ptb.valid.txt").unlink()
    with pytest.raises(DataError, match=r"ptb\.valid\.txt: expected a text, .* To mend it: pass"):
        text.load(treebank)


def test_the_bible():
    corpus = text.load(size=10_000, progress=False)
    assert corpus.name == "King James Bible"
    assert len(corpus.words) == len({*corpus.words}) == 10_000
    first = "in the beginning god created the heaven and the earth <eos> and the earth was without"
    assert corpus.text(corpus.train[:16]) == first.split()
    # 31,102 verses end; of 1,189 chapters 59 are for validation and 59 for the test
    end = corpus.words.index("<eos>")
    parts = (corpus.train, corpus.valid, corpus.test)
    assert sum(int((part == end).sum()) for part in parts) == 31_102
    assert corpus.text(corpus.test[:4]) == ["and", "abraham", "journeyed", "from"]  # Genesis 20
    assert all(len(part) > 35_000 for part in parts)
    counts = np.bincount(corpus.train)
    unknown = corpus.words.index("<unk>")
    known = np.delete(counts, [end, unknown])
    assert (np.diff(known) <= 0).all()
    assert known.min() >= 1


def test_words_have_no_punctuation_and_keep_apostrophes():
    found = text.words_of("And God said, Let there be light: Pharaoh’s Beth-el; (selah)!")
    assert found == [
        "and",
        "god",
        "said",
        "let",
        "there",
        "be",
        "light",
        "pharaoh’s",
        "beth-el",
        "selah",
    ]
