"""Which English word a German word comes from: attributions of a translator (slides, exp. 3)."""

import collections
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import xattr
from paper_repro.data import pieces, verses
from paper_repro.experiments import word_matrices
from paper_repro.experiments.word_matrices import METHODS, Explained, Network, Sentence
from paper_repro.networks import translator_training as training
from paper_repro.networks import word_alignment
from paper_repro.networks.translator_training import Corpus, Recipe
from paper_repro.networks.word_alignment import Alignment
from paper_repro.report.bleu import Bleu, bleu
from paper_repro.report.progress import shown
from paper_repro.report.results import Claim, Result, Setting, Table, decimal, interval

SLIDES = (("and", "und"), ("morning", "Morgen"))
"""The pairs that the slides name."""
GREETING = "Good morning, ladies and gentlemen"
"""The sentence of the slides, which is no sentence of the Bible."""
Pairs = list[tuple[str, str]]
Matrices = list[tuple[Sentence, Explained]]


class Size(NamedTuple):
    """How much is trained and measured."""

    recipe: Recipe
    pairs: int
    """Pairs of words whose attributions are looked at."""
    each: int
    """Held-out sentences with such a pair, for each pair."""
    tested: int
    """Held-out sentences that are translated, at most."""
    length: int
    """Most pieces of a sentence that is attributed."""
    nodes: int
    """Nodes of the integral."""


FULL = Size(training.FULL, 50, 4, 10_000, 16, 100)
QUICK = Size(training.QUICK, 20, 3, 300, 12, 20)


def run(setting: Setting) -> Result:
    """Train a translator, and compare what it looks at with a model of word alignment."""
    size = QUICK if setting.quick else FULL
    recipe = size.recipe._replace(seed=setting.seed)
    corpus = training.corpus(recipe, verses.load(progress=setting.progress))
    trained = training.train(recipe, corpus, progress=setting.progress)
    model = training.model_of(recipe, corpus)
    network = Network(model, trained.params, corpus, recipe.buckets[-1])
    tested = word_matrices.translated(network, ((p[0], p[1]) for p in corpus.test[: size.tested]))
    score = bleu(
        [sentence.words[1] for sentence in tested],
        [pieces.words_of(sentence.reference) for sentence in tested],
    )
    ahead, back = _alignments(corpus)
    pairs = frequent(corpus, word_alignment.mutual(ahead, back), size.pairs)
    explain = word_matrices.explainer(network, length=size.length, nodes=size.nodes)
    chosen = [
        (sentence, explain(sentence))
        for sentence in shown(
            _chosen(tested, pairs, size, setting.seed), "matrices", setting.progress
        )
    ]
    of_list = functools.partial(word_matrices.listed, {other: word for word, other in pairs})
    rates = {
        f"the {len(pairs)} pairs": word_matrices.hits(chosen, of_list),
        "all words": word_matrices.hits(chosen, functools.partial(_aligned, ahead)),
    }
    by_pair = {pair: _of_pair(chosen, pair) for pair in pairs}
    numbers = _numbers(corpus, trained, score, chosen)
    numbers |= {"sentences": len(tested), "rates": rates, "pairs": _plain(by_pair)}
    pictured = _pictured(chosen)
    greeting = word_matrices.translated(network, [(GREETING, "")])  # none if it is too long
    return Result(
        "A translator: which English word a German word comes from",
        {
            "": _draw(pictured),
            "methods": _draw_methods(pictured[0]),
            "rates": _draw_rates(rates),
        },
        numbers,
        _claims(rates, by_pair, chosen),
        [_examples([*_sample(tested, setting.seed), *greeting]), _table(rates), _pairs(by_pair)],
        _notes(size, numbers, score, corpus),
    )


def _alignments(corpus: Corpus) -> tuple[Alignment, Alignment]:
    """Learn IBM model 1 from English to German, and back, from the clauses to train on."""
    words = [[pieces.words_of(pair[:2][side]) for side in (0, 1)] for pair in corpus.train]
    ahead = word_alignment.learn((english, german) for english, german in words)
    return ahead, word_alignment.learn((german, english) for english, german in words)


def frequent(corpus: Corpus, mutual: Pairs, count: int) -> Pairs:
    """Return the slides' pairs, and those whose German word is most frequent; one of each case."""
    counts = collections.Counter(w for pair in corpus.train for w in pieces.words_of(pair.german))
    found: dict[str, tuple[str, str]] = {other.casefold(): (word, other) for word, other in SLIDES}
    for word, other in sorted(mutual, key=lambda pair: -counts[pair[1]]):
        if word.isalpha() and other.isalpha():
            found.setdefault(other.casefold(), (word, other))
    return list(found.values())[:count]


def _chosen(tested: list[Sentence], pairs: Pairs, size: Size, seed: int) -> list[Sentence]:
    """Return for each pair the first few short sentences, in a random order, that have it."""
    order = np.random.default_rng(seed).permutation(len(tested)).tolist()
    short = [i for i in order if max(len(cut.ids) for cut in tested[i][:2]) <= size.length]
    found: dict[int, None] = {}
    for word, other in pairs:
        having = [i for i in short if word in tested[i].words[0] and other in tested[i].words[1]]
        found |= dict.fromkeys(having[: size.each])
    return [tested[i] for i in sorted(found or short[:1])]


def _aligned(alignment: Alignment, source: Sequence[str], word: str) -> str | None:
    """Return the source word that IBM model 1 takes a word from; None for marks and no word."""
    at = alignment.best(source, word) if word.isalpha() else -1
    return source[at] if at >= 0 else None


def _of_pair(chosen: Matrices, pair: tuple[str, str]) -> dict[str, np.ndarray]:
    word, other = pair
    return word_matrices.hits(chosen, functools.partial(word_matrices.listed, {other: word}))


def _numbers(corpus: Corpus, trained: Any, score: Bleu, chosen: Matrices) -> dict[str, Any]:
    return {
        "pairs to train on": len(corpus.train),
        "pieces": {"English": len(corpus.source.names), "German": len(corpus.target.names)},
        "parameters": int(sum(np.size(leaf) for leaf in _leaves(trained.params))),
        "training": {
            "steps": len(trained.losses),
            "seconds": trained.seconds,
            "loss": trained.losses[:: max(1, len(trained.losses) // 35)],
            "last loss": float(np.mean(trained.losses[-100:])),
        },
        "bleu": score._asdict(),
        "attributed": {
            "sentences": len(chosen),
            "relative gap": _gaps(chosen),
            "markers": max(explained.markers for _, explained in chosen),
        },
    }


def _leaves(params: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(params)


def _gaps(chosen: Matrices) -> np.ndarray:
    """Return Σ |gap| / Σ |change| over the words of each translation."""
    sums = [(np.abs(e.gaps).sum(), np.abs(e.change).sum()) for _, e in chosen]
    return np.array([gap / change for gap, change in sums if change > 0])


def _plain(by_pair: dict[tuple[str, str], dict[str, np.ndarray]]) -> dict[str, Any]:
    return {
        f"{other} ← {word}": {name: [float(v.sum()), len(v)] for name, v in found.items()}
        for (word, other), found in by_pair.items()
    }


def _claims(rates: Any, by_pair: Any, chosen: Matrices) -> list[Claim]:
    (name, found), gaps = next(iter(rates.items())), _gaps(chosen)
    claims = [_claim_of(pair, by_pair[pair]["integrated gradients"]) for pair in SLIDES]
    ig, low, high = interval(found["integrated gradients"] - found["chance"])
    claims.append(
        Claim(
            f"{name}: the largest integrated gradient is at the aligned word, more than by chance",
            "shown for two pairs",
            f"{_percent(found['integrated gradients'])} against {_percent(found['chance'])}, "
            f"difference {_points(ig, low, high)} points",
            bool(low > 0),
        )
    )
    for other in METHODS[1:]:
        apart, low, high = interval(found["integrated gradients"] - found[other])
        claims.append(
            Claim(
                f"{name}: integrated gradients less {other}",
                "not compared",
                f"{_points(apart, low, high)} points",
                None,
            )
        )
    claims.append(
        Claim(
            "a word's row sums to the change of its log p",
            "within 5 %",
            f"median gap of a sentence {100 * np.median(gaps):.2g} %, largest "
            f"{100 * gaps.max():.2g} %",
            bool(gaps.max() <= 0.05),
        )
    )
    return claims


def _claim_of(pair: tuple[str, str], found: np.ndarray) -> Claim:
    word, other = pair
    agrees = bool(found.mean() > 0.5) if len(found) else None
    return Claim(
        f"“{other}” is attributed to “{word}”",
        "largest in its row, in one sentence",
        f"{int(found.sum())} of {len(found)} occurrences",
        agrees,
    )


def _points(mean: float, low: float, high: float) -> str:
    return f"{100 * mean:.0f} [{100 * low:.0f}, {100 * high:.0f}]".replace("-", "−")


def _percent(values: np.ndarray) -> str:
    return f"{100 * float(np.mean(values)):.0f} %"


def _table(rates: Any) -> Table:
    rows = []
    for name in (*METHODS, "chance"):
        cells = []
        for found in rates.values():
            cells.append(_points(*interval(found[name])))
        rows.append([name, *cells])
    head = ["method", *(f"{name} (n = {len(v['chance'])})" for name, v in rates.items())]
    return Table(
        "German words whose largest entry is at the aligned English word, in per cent", head, rows
    )


def _pairs(by_pair: Any) -> Table:
    rows = [
        [f"{other} ← {word}", *(f"{int(found[m].sum())} of {len(found[m])}" for m in METHODS)]
        for (word, other), found in by_pair.items()
        if len(found["chance"])
    ]
    title = "Occurrences of each pair in which the largest entry is at the English word"
    return Table(title, ["pair", *METHODS], rows)


def _sample(tested: list[Sentence], seed: int) -> list[Sentence]:
    count = min(10, len(tested))
    places = np.random.default_rng([seed, 1]).choice(len(tested), count, replace=False)
    return [tested[i] for i in sorted(places.tolist())]


def _examples(sentences: Sequence[Sentence]) -> Table:
    rows = [
        [" ".join(s.words[0]), " ".join(s.words[1]), s.reference or "(the slides' sentence)"]
        for s in sentences
    ]
    return Table(
        "Translations of held-out clauses, drawn at random, and of the slides' sentence",
        ["English", "here", "Elberfelder"],
        rows,
    )


def _notes(size: Size, numbers: dict[str, Any], score: Bleu, corpus: Corpus) -> list[str]:
    fit, shares = numbers["training"], [decimal(p) for p in score.precisions]
    return [
        "The slides explain Google's translator, which is not public. Here a small one is trained: "
        "gated recurrent units read the source from both sides, and a decoder attends to them "
        f"({numbers['parameters']:,} parameters). The text is that of two Bibles whose copyright "
        "has expired or was given up, the Elberfelder of 1905 and the World English Bible, cut "
        f"into clauses at punctuation and paired by length. {numbers['pairs to train on']:,} pairs "
        f"are trained on: {fit['steps']:,} batches of {size.recipe.batch}, in {fit['seconds']:.0f} "
        f"s. The loss of a piece is {fit['last loss']:.2f} nats at the end.",
        f"BLEU is {score.score:.1f} on {numbers['sentences']:,} clauses of held-out verses, no "
        "English clause of which was trained on: greedy translations, words and marks as tokens, "
        f"in their case, one reference. The precisions are {', '.join(shares)}, the brevity "
        f"penalty is {decimal(score.brevity)}.",
        "f is log p of a German word, the sum over its pieces, given the words before it in the "
        "network's own translation. The baseline is zero embeddings, but those of the markers; the "
        f"integral has {size.nodes} nodes of Gauss and Legendre. A gradient's entry is its norm. "
        "Attention is the mean weight of a word's pieces; the decoder attends before it reads the "
        "word before, as Bahdanau's does. The figures show the first clauses with “Morgen” and "
        "with “und”, and the longest.",
        "IBM model 1, of the same clauses, says which English word a German word comes from. The "
        "pairs are those of the slides and the most frequent of which each word is the likeliest "
        f"for the other; of each, {size.each} held-out clauses of at most {size.length} pieces are "
        f"attributed, {numbers['attributed']['sentences']} in all. Under “all words” model 1 "
        "decides for every word that it does not take from the empty word.",
    ]


def _pictured(chosen: Matrices) -> Matrices:
    """Return up to four sentences: the first with each of the slides' pairs, then the longest."""
    order = []
    for word, other in SLIDES[::-1]:
        order += [
            i for i, (s, _) in enumerate(chosen) if word in s.words[0] and other in s.words[1]
        ][:1]
    order += sorted(range(len(chosen)), key=lambda i: -len(chosen[i][0].words[1]))
    return [chosen[i] for i in dict.fromkeys(order)][:4]


def _matrix(ax: Any, sentence: Sentence, matrix: np.ndarray) -> None:
    # As on the slides: the source upwards, the translation to the right.
    source, target = sentence.words
    xattr.plot.matrix(ax, matrix.T, source, target)


def _draw(pictured: Matrices) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 10), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    for ax, (sentence, explained) in zip(axes, pictured, strict=False):
        _matrix(ax, sentence, explained.matrices["integrated gradients"])
    for ax in axes[len(pictured) :]:
        ax.set_visible(False)
    figure.suptitle("Integrated gradients of log p of each German word, in nats")
    return figure


def _draw_methods(pictured: tuple[Sentence, Explained]) -> Any:
    from matplotlib.figure import Figure

    sentence, explained = pictured
    figure = Figure(figsize=(12, 10), layout="constrained")
    for ax, name in zip(figure.subplots(2, 2).ravel(), METHODS, strict=True):
        _matrix(ax, sentence, explained.matrices[name])
        ax.set_title(name)
    return figure


def _draw_rates(rates: Any) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    ax = figure.subplots()
    names = [*METHODS, "chance"]
    for offset, (text, found) in zip((-0.2, 0.2), rates.items(), strict=True):
        means = [interval(found[name]) for name in names]
        centre = 100 * np.array([mean for mean, _, _ in means])
        half = 100 * np.array([high - mean for mean, _, high in means])
        ax.bar(np.arange(len(names)) + offset, centre, 0.38, yerr=half, capsize=3, label=text)
    ax.set_xticks(range(len(names)), names, size=9)
    ax.set_ylabel("largest at the aligned word, %")
    ax.legend()
    return figure
