"""Questions: their classes, the grammar, the network, and the rules from attributions."""

import jax
import numpy as np
import pytest

from paper_repro.data import questions
from paper_repro.data.packages import DataError
from paper_repro.data.questions import CLASSES, NINE
from paper_repro.networks import question_cnn, saved
from paper_repro.report import triggers
from paper_repro.report.triggers import Explained, Rule


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("how many townships have a population above 50?", "17", "NUMERIC"),
        ("what is the difference in population?", "14,373", "NUMERIC"),
        ("how much taller is the peak?", "397 ft", "NUMERIC"),
        ("how many viewers were there?", "29.133 million", "NUMERIC"),
        ("what share?", "45.5%", "NUMERIC"),
        ("which film was before?", "The Watermelon", "STRING"),
        ("which team?", "1860 Munich", "STRING"),
        ("who?", "Joe Straus|Lyle Larson", "STRING"),
        ("which year did she work on the most films?", "1998", "DATETIME"),
        ("how many people lived there in the year 1950?", "1998", "NUMERIC"),
        ("what was the attendance?", "1998", "NUMERIC"),
        ("when was it?", "950", "NUMERIC"),
        ("when did ed sheeran get it?", "17 January 2014", "DATETIME"),
        ("what was the airdate?", "January 26, 1995", "DATETIME"),
        ("when?", "February 15", "DATETIME"),
        ("name a season", "2005/06", "DATETIME"),
        ("which decade?", "1950s", "DATETIME"),
        ("when?", "27-May-75", "DATETIME"),
        ("which years?", "1990|1991", "DATETIME"),
        ("did charles oakley play more?", "Yes", "YESNO"),
        ("is it?", "no", "YESNO"),
    ],
)
def test_the_class_comes_from_the_answer(question, answer, expected):
    assert CLASSES[questions.class_of(question, answer)] == expected


def test_words_and_their_numbers():
    found = questions.words_of("Who's 2nd in usl a-league, 3:47 or “b”?")
    assert found == ["who's", "2nd", "in", "usl", "a-league", ",", "3:47", "or", "“", "b", "”", "?"]
    words = questions.vocabulary([["b", "a"], ["a", "b", "c"]])
    assert words == ("<pad>", "<unk>", "a", "b")
    ids = questions.encoded([["a", "c", "b"], ["a"] * 50], words)
    assert ids.shape == (2, questions.LENGTH)
    assert ids[0, :4].tolist() == [2, 1, 3, 0]
    assert (ids[1] == 2).all()


def test_a_folder_and_what_is_not_one(tmp_path):
    head = "id\tutterance\tcontext\ttargetValue\n"
    nine = next(iter(NINE))
    rows = f'nt-0\thow many "a?\tx\t5\nnt-1\t{nine}\tx\t17\n'
    (tmp_path / "training.tsv").write_text(head + rows)
    with pytest.raises(DataError, match=r"pristine-unseen-tables\.tsv: expected questions"):
        questions.load(tmp_path)
    (tmp_path / "pristine-unseen-tables.tsv").write_text(head + "nu-0\tis it?\tx\tyes\n")
    found = questions.load(tmp_path)
    assert found.train == [["how", "many", '"', "a", "?"]]  # the nine are not trained on
    assert found.train_labels.tolist() == [0]
    assert found.test_labels.tolist() == [3]
    (tmp_path / "training.tsv").write_text("something\telse\n1\t2\n")
    with pytest.raises(DataError, match="columns utterance and targetValue"):
        questions.load(tmp_path)


def test_the_grammar_plants_a_name_in_one_class():
    made = questions.grammar(np.random.default_rng(0), 400)
    assert np.bincount([label for _, label in made]).tolist() == [100] * 4
    with_name = {CLASSES[label] for question, label in made if questions.PLANTED in question}
    assert with_name == {"YESNO"}
    assert not any("{" in question for question, _ in made)
    assert made == questions.grammar(np.random.default_rng(0), 400)


TINY = question_cnn.Recipe(width=8, maps=6, batch=20, epochs=8)


@pytest.fixture
def data(monkeypatch, tmp_path):
    monkeypatch.setenv("XATTR_CACHE", str(tmp_path))
    with jax.numpy_dtype_promotion("standard"):
        yield questions.load(None, quick=True)


def test_the_network_by_hand(x64):
    recipe, words = TINY, 9
    model = question_cnn.Cnn(words, recipe)
    ids = np.array([4, 2, 8, 1, 0, 0, 0], np.int32)
    params = model.init(jax.random.key(0), ids)["params"]
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = params["table"]["embedding"][ids] * (ids != 0)[:, None]
    hidden = []
    for window in (3, 4, 5):
        weights = params[f"window{window}"]
        kernel = weights["kernel"].reshape(window, recipe.width, recipe.maps)
        padded = np.pad(x, ((window - 1, window - 1), (0, 0)))
        values = [
            np.einsum("wd,wdm->m", padded[i : i + window], kernel) + weights["bias"]
            for i in range(len(ids) + window - 1)
        ]
        hidden.append(np.maximum(values, 0).max(axis=0))
    output = params["output"]
    expected = np.concatenate(hidden) @ output["kernel"] + output["bias"]
    found = question_cnn.logits(words, recipe, ids, params)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    longer = np.pad(ids, (0, 30))  # more padding makes no difference
    np.testing.assert_allclose(
        question_cnn.logits(words, recipe, longer, params), found, rtol=1e-12
    )


def test_dropout_needs_a_key_and_keeps_the_mean():
    model, ids = question_cnn.Cnn(9, TINY), np.array([4, 2, 8, 1, 0, 0, 0], np.int32)
    params = model.init(jax.random.key(0), ids)
    keys = jax.random.split(jax.random.key(1), 4000)
    drawn = jax.vmap(lambda key: model.apply(params, ids, key))(keys)
    plain = np.asarray(model.apply(params, ids))
    error = np.std(drawn, axis=0) / 4000**0.5
    assert (np.abs(np.mean(drawn, axis=0) - plain) < 4 * error).all()
    assert np.std(drawn, axis=0).min() > 0


def test_training_learns_the_grammar_within_the_norm(data, monkeypatch):
    trained = question_cnn.train(TINY, data, progress=False)
    assert trained.test > 0.9
    norms = np.linalg.norm(trained.params["output"]["kernel"], axis=0)
    assert norms.max() <= TINY.norm * 1.0001
    monkeypatch.setattr(saved, "run", None)
    assert question_cnn.train(TINY, data, progress=False)[1:] == trained[1:]


def test_weights_are_scaled_down_to_the_norm():
    kernel = np.array([[3.0, 0.3], [4.0, 0.4]], np.float32)
    params = {"output": {"kernel": kernel, "bias": np.zeros(2)}, "table": 1}
    found = question_cnn._bounded(TINY._replace(norm=2.5), params)
    np.testing.assert_allclose(found["output"]["kernel"], [[1.5, 0.3], [2.0, 0.4]], rtol=1e-6)
    assert found["table"] == 1


def explained():
    """Four questions: "a b" tells class 0, "c" class 1; "d" has a large map but tells nothing."""
    words = [["a", "b", "d"], ["a", "b", "e"], ["c", "e"], ["c", "b"]]
    maps = [[0.2, 0.5, 0.1], [0.2, 0.3, -0.1], [0.9, 0.0], [0.7, -0.2]]
    maps = {"IG": [np.array(values) for values in maps]}
    ones = np.ones(4)
    return Explained(words, np.array([0, 0, 1, 1]), ones, 0.8 * ones, 0 * ones, maps)


def test_the_words_with_the_largest_mean():
    each = explained()
    three = each._replace(
        words=each.words * 3, classes=np.tile(each.classes, 3), maps={"IG": each.maps["IG"] * 3}
    )
    found = triggers.largest(three, 1)
    expected = {"b": 0.4, "a": 0.2, "d": 0.1}
    assert [word for word, *_ in found["NUMERIC"]] == [*expected]
    assert [mean for _, mean, _ in found["NUMERIC"]] == pytest.approx([*expected.values()])
    assert [count for *_, count in found["NUMERIC"]] == [6, 6, 3]
    assert found["STRING"] == [("c", pytest.approx(0.8), 6)]
    assert found["YESNO"] == []
    assert triggers.largest(each, 1)["NUMERIC"] == []  # fewer than three
    pairs = triggers.largest(three, 2)["NUMERIC"]
    assert pairs[0] == ("a b", pytest.approx(0.6), 6)
    np.testing.assert_allclose(each.sums, [0.8, 0.4, 0.9, 0.5])
    assert "a" in triggers.ASKING
    silent = triggers.silent(three, [["b"], ["b", "d"], ["d"]], np.array([0, 1, 1]))
    assert [(word, share) for word, *_, share in silent["NUMERIC"]] == [("b", 0.5), ("d", 0.0)]
    assert np.isnan(silent["STRING"][0][-1])  # no training question has "c"


def test_rules_by_hand():
    """Each trigger tells a class without a mistake; "b" alone would be wrong once."""
    rules = triggers.distil(explained(), "IG")
    assert [(rule.trigger, rule.label) for rule in rules[:2]] == [("a", 0), ("c", 1)]
    assert [(rule.covered, rule.right) for rule in rules[:2]] == [(2, 2), (2, 2)]
    assert rules[-1].trigger == ""
    assert triggers.apply(rules, explained().words).tolist() == [0, 0, 1, 1]
    ordered = [Rule("c", 1, 0, 0), Rule("b", 0, 0, 0), Rule("", 3, 0, 0)]
    said = triggers.apply(ordered, [["c", "b"], ["b"], ["e", "cb"]])
    assert said.tolist() == [1, 0, 3]  # the first that fits decides, and whole words only
