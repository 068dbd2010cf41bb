"""What the translation experiment is made of: clauses, pieces, alignment, BLEU, the network."""

import collections
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xattr
from paper_repro.data import pieces, verses
from paper_repro.experiments import word_matrices
from paper_repro.experiments.word_matrices import Network, Sentence
from paper_repro.networks import translator_training as training
from paper_repro.networks import word_alignment
from paper_repro.networks.translator import Sizes, Translator, greedy
from paper_repro.report.bleu import bleu

# Clauses ------------------------------------------------------------------------------------


def test_clauses_end_at_marks():
    verse = 'God said, "Let there be light," and there was light.'
    assert verses.clauses(verse) == ["God said,", '"Let there be light," and there was light.']


def every_way(english, german):
    """All ways to pair the beginnings of two lists, by the kinds of beads."""
    if not english and not german:
        yield []
    for p, q in verses.BEADS:
        if p <= len(english) and q <= len(german):
            for rest in every_way(english[p:], german[q:]):
                yield [(" ".join(english[:p]), " ".join(german[:q]), (p, q)), *rest]


def cost(ways, ratio):
    """Gale & Church's distance, written out: −log of prior and of the tail of the normal."""
    total = 0.0
    for english, german, bead in ways:
        mean = (len(english) + len(german) / ratio) / 2
        d = abs(len(german) - ratio * len(english)) / math.sqrt(6.8 * mean)
        total -= math.log(max(math.erfc(d / math.sqrt(2)), 1e-12)) + math.log(verses.BEADS[bead])
        total += bool(english and german) and english[-1] != german[-1]
    return total


def test_the_best_pairs_are_those_of_an_exhaustive_search():
    random = np.random.default_rng(0)
    for _ in range(20):
        english, german = (
            ["x" * random.integers(1, 30) + random.choice([*",.;"]) for _ in range(n)]
            for n in random.integers(1, 5, 2)
        )
        ways = list(every_way(english, german))
        found = verses.aligned(english, german, 1.1)
        best = min(ways, key=lambda way: cost(way, 1.1))
        assert [tuple(pair) for pair in found] == [pair[:2] for pair in best]


def test_one_long_clause_is_paired_with_two_short_ones():
    english = ["He came to the city in the evening,", "and slept."]
    german = ["Er kam am Abend,", "zu der Stadt,", "und schlief."]
    assert verses.aligned(english, german, 1.0) == [
        (english[0], " ".join(german[:2])),
        (english[1], german[2]),
    ]


def test_the_pairs_of_the_package():
    pairs = verses.load()
    assert len(pairs) == 106_075
    assert pairs[0].english == "In the beginning God created the heavens and the earth."
    assert pairs[0].german == "Im Anfang schuf Gott die Himmel und die Erde."
    assert pairs[-1].verse == 31_101


# Pieces -------------------------------------------------------------------------------------


def test_merges_worked_by_hand():
    """The words of Sennrich et al., fig. 1, with the beginning marked in place of the end.

    e s: 6 + 3 times, as s t, which comes later; then es t; then l o and lo w: 5 + 2 times.
    """
    words = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
    found = pieces.learn(words, 4)
    assert list(found.merges) == [("e", "s"), ("es", "t"), ("_l", "o"), ("_lo", "w")]
    assert found.cut("lowest") == ["_low", "est"]


def test_merges_are_the_most_frequent_of_all_pairs_counted_anew():
    words = [
        "the",
        "cat",
        "that",
        "sat",
        "on",
        "the",
        "mat",
        "that",
        "the",
        "rat",
        "ate",
        "at",
        "that",
        "tatatat",
    ] * 2
    learned = list(pieces.learn(words, 12).merges)
    cuts = {word: ["_" + word[0], *word[1:]] for word in words}
    counts = collections.Counter(words)
    for merge in learned:
        pairs = collections.Counter()
        for word, cut in cuts.items():
            for pair in itertools.pairwise(cut):
                pairs[pair] += counts[word]
        assert pairs[merge] == max(pairs.values())
        cuts = {word: pieces.merged(cut, merge) for word, cut in cuts.items()}
    assert len(learned) == 12


def test_pieces_spell_the_words():
    learned = pieces.learn(["Guten", "Morgen", "Damen", "und", "Herren"] * 2, 10)
    text = "Und Morgen, Damen; gut!"
    cut = pieces.cut(learned, text)
    assert pieces.joined(cut.names) == ["Und", "Morgen", ",", "Damen", ";", "gut", "!"]
    assert (cut.names[0], cut.names[-1]) == (pieces.START, pieces.END)
    assert cut.words[0] == cut.words[-1] == -1
    assert max(cut.words) == 6
    numbers = learned.numbers()
    assert cut.ids[cut.names.index("_!")] == numbers[pieces.UNKNOWN]  # never seen


# Alignment ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rounds", "the_das", "book_das", "house_das", "a_ein"),
    [
        (1, 0.5, 0.25, 0.25, 0.5),
        (2, 0.6364, 0.1818, 0.1818, 0.5714),
        (3, 0.7479, 0.1208, 0.1313, 0.6534),
    ],
)
def test_expectation_maximization_worked_by_hand(rounds, the_das, book_das, house_das, a_ein):
    """Koehn 2010, "Statistical machine translation", fig. 4.4."""
    pairs = [("das Haus", "the house"), ("das Buch", "the book"), ("ein Buch", "a book")]
    words = [(left.split(), right.split()) for left, right in pairs]
    found = word_alignment.learn(words, rounds, null=False)
    asked = [("das", "the"), ("das", "book"), ("das", "house"), ("ein", "a")]
    values = [found.probability(*pair) for pair in asked]
    np.testing.assert_allclose(values, [the_das, book_das, house_das, a_ein], atol=5e-5)
    assert found.probability("ein", "the") == 0  # never together
    assert found.probability("ein", "king") == 0  # unknown


def test_words_that_come_from_no_word():
    sentences = [(["a"], ["x", "ja"]), (["b"], ["y", "ja"]), (["c"], ["z", "ja"])] * 2
    found = word_alignment.learn(sentences, 20)
    assert found.best(["a"], "x") == 0
    assert found.best(["b", "a"], "x") == 1
    assert found.best(["a"], "ja") == -1
    assert found.best(["a"], "unknown") == -1
    back = word_alignment.learn([(right, left) for left, right in sentences], 20)
    assert word_alignment.mutual(found, back) == [("a", "x"), ("b", "y"), ("c", "z")]


# BLEU ---------------------------------------------------------------------------------------


def test_a_word_counts_no_more_often_than_the_reference_has_it():
    """Papineni et al. 2002, example 2: 2 of 7."""
    found = bleu([["the"] * 7], [["the", "cat", "is", "on", "the", "mat"]])
    assert found.precisions[0] == pytest.approx(2 / 7)
    assert found.score == 0


def test_bleu_worked_by_hand():
    """Two sentences: 7 of 9 words, 5 of 7 pairs, 3 of 5 triples, 1 of 3 of four; 9 against 10."""
    ours = [["the", "cat", "sat", "on", "a", "mat"], ["he", "came", "home"]]
    references = [["the", "cat", "sat", "on", "the", "red", "mat"], ["he", "came", "home"]]
    found = bleu(ours, references)
    # words: the cat sat on mat | he came home; pairs: the-cat cat-sat sat-on | two;
    # triples: the-cat-sat cat-sat-on | one; of four: the-cat-sat-on.
    assert found.precisions == pytest.approx((8 / 9, 5 / 7, 3 / 5, 1 / 3))
    assert found.brevity == pytest.approx(math.exp(1 - 10 / 9))
    mean = (8 / 9 * 5 / 7 * 3 / 5 * 1 / 3) ** 0.25
    assert found.score == pytest.approx(100 * math.exp(-1 / 9) * mean)
    assert bleu(references, references).score == pytest.approx(100)


# The network --------------------------------------------------------------------------------

MODEL = Translator(Sizes(11, 13, 6, 5))


@pytest.fixture(scope="module")
def params():
    ids = jnp.ones(4, jnp.int32)
    found = MODEL.init(jax.random.key(0), ids, ids)["params"]
    return jax.tree.map(lambda a: 3 * a, found)  # far enough from linear


def test_the_forward_pass_equals_a_numpy_version(params):
    p = jax.tree.map(np.asarray, params)
    sigmoid = lambda a: 1 / (1 + np.exp(-a))

    def cell(name, state, inputs):
        (r, z, n), (kr, kz, kn) = np.split(inputs, 3), np.split(p[name]["kernel"], 3, axis=1)
        r, z = sigmoid(r + state @ kr), sigmoid(z + state @ kz)
        return z * state + (1 - z) * np.tanh(n + r * (state @ kn))

    def dense(name, x):
        return x @ p[name]["kernel"] + p[name].get("bias", 0)

    source, target = [1, 5, 7, 2], [1, 4, 9]
    x, y = p["source"]["embedding"][source], p["target"]["embedding"][target]
    ahead, back, state = [], [], np.zeros(5)
    for each in x:
        state = cell("forward_cell", state, dense("forward_in", each))
        ahead.append(state)
    state = np.zeros(5)
    for each in x[::-1]:
        state = cell("backward_cell", state, dense("backward_in", each))
        back.insert(0, state)
    values = np.concatenate([ahead, back], axis=1)
    state = np.tanh(dense("bridge", np.concatenate([ahead[-1], back[0]])))
    rows = []
    for each in y:
        scores = np.exp(dense("key", values) @ state / math.sqrt(5))
        context = scores / scores.sum() @ values
        state = cell(
            "decoder_cell", state, dense("decoder_in", each) + dense("context_in", context)
        )
        read = np.tanh(dense("readout", np.concatenate([state, context, each])))
        rows.append(read @ p["target"]["embedding"].T + p["bias"])
    found = MODEL.apply({"params": params}, jnp.array(source), jnp.array(target))
    np.testing.assert_allclose(found, rows, atol=1e-5)


def test_padding_changes_nothing(params):
    source, target = jnp.array([1, 5, 7, 2]), jnp.array([1, 4, 9])
    alone = MODEL.apply({"params": params}, source, target)
    padded = MODEL.apply({"params": params}, jnp.pad(source, (0, 3)), jnp.pad(target, (0, 2)))
    np.testing.assert_allclose(padded[:3], alone, atol=1e-6)


def test_greedy_takes_the_likeliest_piece_under_teacher_forcing(params):
    source = jnp.array([1, 8, 3, 5, 2])
    found = greedy(MODEL, params, source, 6)
    forced = jnp.concatenate([jnp.ones(1, found.dtype), found[:-1]])
    best = jnp.argmax(MODEL.apply({"params": params}, source, forced), axis=1)
    stop = int(jnp.argmax(jnp.append(found, 2) == 2))
    np.testing.assert_array_equal(found[: stop + 1], best[: stop + 1])
    np.testing.assert_array_equal(found[stop + 1 :], 0)
    assert len(set(found.tolist())) > 1


def test_the_matrix_is_that_of_a_loop_over_words(params):
    """Each row by integrated gradients of one word alone, and by the sum over its pieces."""
    names = [str(i) for i in range(13)]
    names[4], names[5], names[6], names[7] = "_a", "b", "_c", "_d"
    learned = pieces.Pieces({}, names)
    network = Network(MODEL, params, training.Corpus(learned, learned, [], []), 8)
    source = pieces.Cut(["<s>", "_x", "y", "_z", "</s>"], [1, 5, 7, 9, 2], [-1, 0, 0, 1, -1])
    target = pieces.Cut(["<s>", "_a", "b", "_c", "</s>"], [1, 4, 5, 6, 2], [-1, 0, 0, 1, -1])
    sentence = Sentence(source, target, "")
    explain = word_matrices.explainer(network, length=8, nodes=30)
    found = explain(sentence)
    ids = jnp.array(source.ids)

    def word(x, places):  # without padding, and for one word
        memory = MODEL.apply({"params": params}, x, ids > 0, method="encode")
        given = jnp.array(target.ids[:-1])
        logits = MODEL.apply({"params": params}, memory, given, method="decode")[0]
        scores = jax.nn.log_softmax(logits)
        return sum(scores[place - 1, target.ids[place]] for place in places)

    x = params["source"]["embedding"][ids]
    x0 = x.at[1:4].set(0)
    nodes = xattr.quadrature.gauss_legendre(30)
    for row, places in enumerate([(1, 2), (3,)]):
        f = lambda x, places=places: word(x, places)
        a = xattr.integrated_gradients(f, x, x0, quadrature=nodes).sum(axis=1)
        g = jax.grad(f)(x)
        expected = {
            "integrated gradients": a,
            "gradient ⊙ input": (g * (x - x0)).sum(axis=1),
        }
        for name, tokens in expected.items():
            of_words = [tokens[1] + tokens[2], tokens[3]]
            np.testing.assert_allclose(found.matrices[name][row], of_words, atol=1e-5)
        norms = [jnp.linalg.norm(g[1:3]), jnp.linalg.norm(g[3])]
        np.testing.assert_allclose(found.matrices["gradient"][row], norms, rtol=1e-4)
        assert found.change[row] == pytest.approx(float(f(x) - f(x0)), abs=1e-5)
    assert np.abs(found.gaps).max() < 1e-4
    assert np.abs(found.change).max() > 0.1
    assert found.markers == 0
    assert (found.matrices["attention"].sum(axis=1) < 1).all()  # the markers have the rest


def test_hits_and_chance():
    cut = lambda words: pieces.Cut(
        ["<s>", *("_" + w for w in words), "</s>"], [], [-1, *range(len(words)), -1]
    )
    sentence = Sentence(cut(["and", "God", "and"]), cut(["und", "Gott", "neu"]), "")
    right = np.array([[0, 1, 2], [0, 3, 1], [1, 0, 0]])
    wrong = right[:, [1, 0, 2]]
    matrices = dict.fromkeys(word_matrices.METHODS, right) | {"attention": wrong}
    explained = word_matrices.Explained(matrices, np.zeros(3), 0.0)
    origin = lambda source, word: {"und": "and", "Gott": "God"}.get(word)
    found = word_matrices.hits([(sentence, explained)], origin)
    np.testing.assert_array_equal(found["integrated gradients"], [1, 1])
    np.testing.assert_array_equal(found["attention"], [1, 0])
    np.testing.assert_allclose(found["chance"], [2 / 3, 1 / 3])


# Training -----------------------------------------------------------------------------------


def test_an_epoch_has_every_pair_once_and_batches_of_like_length():
    recipe = training.QUICK._replace(batch=4, buckets=(4, 8))
    rows = [[[1] * n, [1] * m] for n in range(2, 8) for m in range(2, 9)][:40]
    order = training.batches(recipe, rows)
    first, second = ([order(i) for i in range(s, s + 10)] for s in (0, 10))
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second)) == list(range(40))
    assert first != second
    mixed = [len({max(map(len, rows[i])) <= 4 for i in batch}) > 1 for batch in first]
    assert sum(mixed) <= 1
    assert order(3) == first[3]  # a step alone decides


def test_no_held_out_clause_is_trained_on():
    names = [f"word {i % 70}" if i % 2 else f"only {i}" for i in range(300)]
    pairs = [verses.Pair(name, f"Wort {i}", i // 2) for i, name in enumerate(names)]
    found = training.corpus(training.QUICK._replace(merges=5), pairs)
    assert [pair.english for pair in found.test] == ["only 0", "only 100", "only 200"]
    assert not {pair.verse for pair in found.train} & {0, 50, 100}
    assert len(found.train) == 300 - 6


def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path, monkeypatch):
    recipe = training.QUICK._replace(
        steps=4, batch=4, embedding=4, hidden=3, merges=5, buckets=(8,)
    )
    pairs = [verses.Pair(f"a b {i % 5}", f"x y {i % 7}", 1) for i in range(20)]
    corpus = training.corpus(recipe, pairs)
    whole = training.batches

    def interrupted(recipe, rows):
        order = whole(recipe, rows)

        def batch(step):
            if step == 2:
                raise KeyboardInterrupt
            return order(step)

        return batch

    run = lambda: training.train(recipe, corpus, progress=False)
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        monkeypatch.setenv("XATTR_CACHE", str(tmp_path / "one"))
        straight = run()
        monkeypatch.setenv("XATTR_CACHE", str(tmp_path / "two"))
        monkeypatch.setattr(training, "batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()
        monkeypatch.setattr(training, "batches", whole)
        resumed, cached = run(), run()
    for other in (resumed, cached):
        jax.tree.map(np.testing.assert_array_equal, straight.params, other.params)
        np.testing.assert_array_equal(straight.losses, other.losses)
    assert len(set(straight.losses.tolist())) == 4
    assert not list(tmp_path.rglob("*.unfinished"))
