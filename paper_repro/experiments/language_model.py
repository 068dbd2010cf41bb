"""Which words an LSTM predicts the next word from (counterfactuals, §3.2, figs. 8 to 10)."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro.data import sections, text
from paper_repro.data.sections import REPEATED, WORDS
from paper_repro.data.text import END, UNKNOWN, Corpus
from paper_repro.networks import lstm
from paper_repro.report import next_words
from paper_repro.report.next_words import METHODS, REPLACED
from paper_repro.report.progress import shown
from paper_repro.report.results import Claim, Result, Setting, Table, decimal, interval

SECTIONS = 20
NEAR_ZERO = 0.05
"""A curve that starts below this starts near zero."""
FLAT = 0.1
"""A curve is flat at the end if over the last tenth of the path it moves by less than this share
of its whole range."""
WITHIN = 0.05
"""How far the sum may be from the change of the score, as a share of the prediction."""
PREDICTED = {"cue": 0.5307, "repetition": 0.0062}
"""The predictions of the paper's two sentences."""


class Size(NamedTuple):
    """How much is trained and measured."""

    recipe: lstm.Recipe
    sections: int
    nodes: int


FULL = Size(lstm.Recipe(), 200, 128)
QUICK = Size(lstm.Recipe(words=1_000, width=48, epochs=3, pieces=120), 12, 32)


def run(setting: Setting) -> Result:
    """Train the language model, draw the curves, and explain sentences chosen by two rules."""
    size = QUICK if setting.quick else FULL
    recipe = size.recipe._replace(seed=setting.seed)
    corpus = text.load(setting.ptb_dir, size=recipe.words, progress=setting.progress)
    trained = lstm.train(recipe, corpus, progress=setting.progress)
    curves = _curves(recipe, trained.params, corpus, setting.seed)
    found = {}
    for name, places in (
        ("cue", sections.cues(corpus)),
        ("repetition", sections.repetitions(corpus)),
    ):
        chosen = sections.drawn(places, size.sections, setting.seed)
        work = shown(chosen, f"{name}s", setting.progress)
        found[name] = next_words.explained(recipe, trained.params, work, corpus, size.nodes)
    sentences = {name: _sentence(name, each) for name, each in found.items()}
    numbers = {
        "corpus": corpus.name,
        "words": {part: len(getattr(corpus, part)) for part in text.PARTS},
        "perplexity": {"valid": trained.valid, "test": trained.test},
        "training": {"steps": trained.steps, "seconds": trained.seconds},
        "curves": curves,
        "rates": {name: next_words.rates(each) for name, each in found.items()},
        "completeness": {name: next_words.completeness(each) for name, each in found.items()},
        "sentences": {n: _numbers_of(each, corpus) for n, each in sentences.items()},
    }
    return Result(
        "An LSTM language model: which words predict the next",
        {"": _draw_curves(curves), "sentences": _draw_sentences(sentences, corpus)},
        numbers,
        _claims(numbers, setting),
        [_table_of_rates(numbers), *(_table(n, s, corpus) for n, s in sentences.items())],
        _notes(numbers, recipe, trained),
    )


# What is measured -------------------------------------------------------------------------------


def _curves(recipe: lstm.Recipe, params: Any, corpus: Corpus, seed: int) -> dict[str, Any]:
    """Return the scores of sections along the path, of the next word and of the likeliest."""
    embed, rest = xattr.tokens.at_embedding(functools.partial(lstm.next_word, recipe))
    random = np.random.default_rng(seed)
    starts = random.choice(len(corpus.test) - WORDS, SECTIONS, replace=False)
    alphas = np.linspace(0, 1, 101, dtype=np.float32)

    @jax.jit
    def along(ids: Any, params: Any) -> Any:
        points = jnp.asarray(alphas)[:, None, None] * embed(ids, params)[None]
        return jax.vmap(lambda x: jax.nn.softmax(rest(x, ids, params)))(points)

    found: dict[str, Any] = {"alphas": alphas}
    for kind in ("next word", "likeliest word"):
        words, scores = [], []
        for start in starts:
            before, target = corpus.test[start : start + WORDS], int(corpus.test[start + WORDS])
            chances = np.asarray(along(before, params))
            word = target if kind == "next word" else int(chances[-1].argmax())
            words.append(corpus.words[word])
            scores.append(chances[:, word])
        curves = np.array(scores)
        last = np.ptp(curves[:, 90:], axis=1) / np.ptp(curves, axis=1)
        found[kind] = {"words": words, "scores": curves, "flat": last < FLAT}
        found[kind]["near zero"] = curves[:, 0] < NEAR_ZERO
    first = chances[0]  # where all embeddings are 0, which are the same in all sections
    found["at zero"] = [(corpus.words[i], float(first[i])) for i in np.argsort(-first)[:4]]
    share = (corpus.train == corpus.words.index(UNKNOWN)).mean()
    return found | {"unknown": float(share)}


def _sentence(name: str, explained: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the first section predicted at least as surely as the paper's; else the surest."""
    sure = [each for each in explained if each["score"] >= PREDICTED[name]]
    return sure[0] if sure else max(explained, key=lambda each: float(each["score"]))


def _numbers_of(each: dict[str, Any], corpus: Corpus) -> dict[str, Any]:
    place = each["place"]
    words = {"words": corpus.text(place.ids), "target": corpus.words[place.target]}
    return words | {key: value for key, value in each.items() if key != "place"}


# The report -------------------------------------------------------------------------------------


def _claims(numbers: dict[str, Any], setting: Setting) -> list[Claim]:
    perplexity, found = numbers["perplexity"]["test"], numbers["curves"]["next word"]
    treebank = setting.ptb_dir is not None
    first = Claim(
        "test perplexity of the small network",
        "115 (Zaremba et al., Penn Treebank)",
        f"{perplexity:.0f} ({numbers['corpus']})",
        abs(perplexity - 115) < 5 if treebank else None,
        "" if treebank else "another text, and fewer epochs",
    )
    return [
        first,
        *_claims_of_curves(found, numbers["curves"]),
        *_claims_of_sentences(numbers),
        *_sums(numbers),
    ]


def _claims_of_curves(found: dict[str, Any], curves: dict[str, Any]) -> list[Claim]:
    near, flat = int(found["near zero"].sum()), int(found["flat"].sum())
    others = [w for w, low in zip(found["words"], found["near zero"], strict=True) if not low]
    start = [f"{_marked(word)} {decimal(chance, 2)}" for word, chance in curves["at zero"]]
    return [
        Claim(
            f"curves that start near zero, below {decimal(NEAR_ZERO, 2)}",
            f"all but one of {SECTIONS}",
            f"{near} of {SECTIONS}",
            near >= SECTIONS - 1,
        ),
        Claim(
            "the word that is likely where all embeddings are 0",
            f"{_marked(UNKNOWN)}, words out of the vocabulary",
            ", ".join(start),
            curves["at zero"][0][0] == UNKNOWN,
            f"the curves that do not start near zero predict "
            f"{', '.join(_marked(word) for word in sorted({*others})) or 'nothing'}; "
            f"{_marked(UNKNOWN)} is {100 * curves['unknown']:.1f} % of the training text, and "
            "4.8 % of Penn Treebank",
        ),
        Claim(
            f"curves that are flat around α = 1: they move by less than {100 * FLAT:.0f} % of "
            "their range over the last tenth",
            "all turn flat",
            f"{flat} of {SECTIONS}",
            flat > SECTIONS / 2,
            "the paper gives no measure of flat; more than half counts as agreement",
        ),
    ]


TITLES = {
    "cue": "a word that the word before predicts",
    "repetition": "a rare word that stands before",
}


def _claims_of_sentences(numbers: dict[str, Any]) -> list[Claim]:
    claims = []
    printed = {"cue": "“more” for “than”", "repetition": "the first “ual” for the second"}
    for name, title in TITLES.items():
        each, rates = numbers["sentences"][name], numbers["rates"][name]
        best = each["words"][int(np.argmax(each["IG"]))]
        missed = each["words"][int(np.argmax(each[REPLACED]))]
        claims.append(
            Claim(
                f"{title}: the word with the largest IG in the sentence",
                printed[name],
                f"“{best}” for “{each['target']}” ({float(each['score']):.3g})",
                _of_the_sentence(each, name),
                f"the score falls most when “{missed}” is replaced by {_marked(UNKNOWN)}",
            )
        )
        claims.append(_claim_of_rates(title, rates))
    every = numbers["rates"].values()
    found = {m: np.concatenate([rates["missed"][m] for rates in every]) for m in METHODS}
    why = "all sections; missed most is the word whose replacement lowers the score most"
    what = "the word that the network misses most has the largest value, IG against the gradient"
    return [*claims, _against(what, found, why)]


def _claim_of_rates(title: str, rates: dict[str, Any]) -> Claim:
    misses = 100 * rates["hits"][REPLACED].mean()
    return _against(
        f"{title}: sections in which that word has the largest value, IG against the gradient",
        rates["hits"],
        f"by chance {100 * rates['chance']:.0f} %; if the word is replaced by {_marked(UNKNOWN)}, "
        f"the score falls by {100 * np.median(rates['lost']):.0f} % in the median, and most of all "
        f"words in {misses:.0f} % of the sections",
    )


def _against(what: str, hits: dict[str, np.ndarray], why: str) -> Claim:
    """Compare IG with gradient ⊙ input, section by section."""
    whole, gradient = (100.0 * hits[method] for method in ("IG", "gradient ⊙ input"))
    apart, low, high = interval(whole - gradient)
    return Claim(
        what,
        "IG finds it, the gradient does not",
        f"{whole.mean():.0f} % against {gradient.mean():.0f} % of {len(whole)}, difference "
        f"{apart:.0f} [{low:.0f}, {high:.0f}] points".replace("-", "−"),
        bool(low > 0),
        why,
    )


def _of_the_sentence(each: dict[str, Any], name: str) -> bool:
    """Tell whether the largest IG is that of the word to blame."""
    words, best = each["words"], int(np.argmax(each["IG"]))
    return words[best] == (words[-1] if name == "cue" else each["target"])


def _sums(numbers: dict[str, Any]) -> list[Claim]:
    claims = []
    for name, title in TITLES.items():
        each, found = numbers["sentences"][name], numbers["completeness"][name]
        total, score, slope = (
            float(np.sum(each[key])) for key in ("IG", "score", "gradient ⊙ input")
        )
        paper = {"cue": (0.5322, 0.0031), "repetition": (0.0063, 0.00018)}[name]
        claims += [
            Claim(
                f"{title}: Σ IG of the sentence and the prediction",
                f"{paper[0]:.4f} and {PREDICTED[name]:.4f}",
                f"{total:.4f} and {score:.4f}",
                abs(total - score) <= WITHIN * score,
                f"the score at α = 0 is {float(each['start']):.2g}; over all sections Σ IG is "
                f"within {100 * WITHIN:.0f} % of the change of the score in "
                f"{100 * np.mean(found['gap'] <= WITHIN):.0f} % (largest gap "
                f"{100 * found['gap'].max():.2g} %)",
            ),
            Claim(
                f"{title}: Σ gradient ⊙ input of the sentence, against the prediction",
                f"{paper[1]:.2g}, which is {100 * paper[1] / PREDICTED[name]:.1f} %",
                f"{slope:.2g}, which is {100 * slope / score:.1f} %".replace("-", "−"),
                bool(abs(slope) < 0.1 * score),
                "the gradient is small where the score saturates, and below 10 % counts as "
                "agreement; the median of the sections, without the sign, is "
                f"{100 * np.median(found['gradient, share of the score']):.0f} %",
            ),
        ]
    return claims


def _marked(word: str) -> str:
    """Return a word for the page, where <unk> alone would be a tag that is not shown."""
    return f"`{word}`" if word.startswith("<") else word


def _table_of_rates(numbers: dict[str, Any]) -> Table:
    rows = []
    for name, title in TITLES.items():
        rates = numbers["rates"][name]
        for kind, words in (("hits", "that word"), ("missed", "the word missed most")):
            cells = []
            for method in METHODS:
                mean, low, high = (100 * v for v in interval(rates[kind][method]))
                cells.append(f"{mean:.0f} % [{max(0, low):.0f}, {high:.0f}]")
            chance = f"{100 * rates['chance']:.0f} %"
            rows.append([title, str(rates["sections"]), words, chance, *cells])
    head = ["explained", "sections", "the word", "chance", *METHODS]
    return Table("How often a word has the largest value", head, rows)


def _table(name: str, each: dict[str, Any], corpus: Corpus) -> Table:
    place = each["place"]
    rows = [
        [method, *(f"{value:.2g}".replace("-", "−") for value in each[method]), _sum(each, method)]
        for method in METHODS
    ]
    head = [
        f"for “{corpus.words[place.target]}” ({each['score']:.4g})",
        *map(_marked, corpus.text(place.ids)),
    ]
    return Table(f"The sentence of {TITLES[name]}", [*head, "Σ"], rows)


def _sum(each: dict[str, Any], method: str) -> str:
    if method not in ("IG", "gradient ⊙ input"):
        return ""
    return f"{each[method].sum():.4g}".replace("-", "−")


def _notes(numbers: dict[str, Any], recipe: lstm.Recipe, trained: lstm.Trained) -> list[str]:
    words = numbers["words"]
    return [
        f"The text is the {numbers['corpus']}: {words['train']:,} words to train on, "
        f"{words['valid']:,} for validation and {words['test']:,} for the test, with the "
        f"{recipe.words:,} most frequent words of the training text, {_marked(UNKNOWN)} and "
        f"{_marked(END)} among them. Of every twenty chapters of the Bible the nineteenth is for "
        "validation and the twentieth for the test. `--ptb-dir` takes Penn Treebank.",
        f"The network is the small one of Zaremba et al.: {recipe.layers} layers of "
        f"{recipe.width} cells, {recipe.steps} steps, batches of {recipe.batch}, weights from "
        f"±{decimal(recipe.scale, 1)}, rate {recipe.rate:.0f}, gradients clipped at "
        f"{recipe.clip:.0f}. They train 13 epochs and halve the rate after the fourth; here it is "
        f"{recipe.epochs} epochs, halved after epoch {recipe.constant}: {trained.steps:,} steps in "
        f"{trained.seconds / 60:.0f} minutes on two shared cores. Perplexity: validation "
        f"{trained.valid:.0f}, test {trained.test:.0f}.",
        f"Sections of the curves are {SECTIONS} random places of the test text. The words before "
        "are scaled by α at their embeddings. The sentences come by two rules. A cue: after the "
        "word before, which comes at least 50 times in the training text, the word comes at least "
        "every second time; it is at most 2 % of the text; the cue stands once among the "
        f"{WORDS} words before. A repetition: the word comes at most 100 times in the training "
        f"text, and stands once among the {REPEATED} words before, not right before. Of all such "
        "places of the test text some are drawn at random; the sentence shown is the first of them "
        "whose prediction is at least that of the paper's sentence "
        f"({decimal(PREDICTED['cue'], 4)} and {decimal(PREDICTED['repetition'], 4)}), or else the "
        f"one with the largest. Replaced means that a word is replaced by {_marked(UNKNOWN)}: the "
        "value is by how much the score falls.",
    ]


def _draw_curves(curves: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for ax, kind in zip(
        figure.subplots(1, 2, sharey=True), ("next word", "likeliest word"), strict=True
    ):
        found, labelled = curves[kind], [-1.0]
        for word, scores, low in zip(
            found["words"], found["scores"], found["near zero"], strict=True
        ):
            colour, end = "tab:blue" if low else "tab:red", float(scores[-1])
            ax.plot(curves["alphas"], scores, color=colour, linewidth=1)
            if (not low or end > 0.2) and min(abs(end - other) for other in labelled) > 0.035:
                ax.text(1.01, end, word, size=7, va="center", color=colour)
                labelled.append(end)
        ax.set_title(f"the {kind}: {int(found['near zero'].sum())} of {SECTIONS} start near zero")
        ax.set(xlabel="α, weight of the words before", xlim=(0, 1.13))
    figure.axes[0].set_ylabel("softmax score")
    return figure


def _draw_sentences(sentences: dict[str, Any], corpus: Corpus) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axes = iter(figure.subplots(4, 1))
    for name, each in sentences.items():
        words, target = corpus.text(each["place"].ids), corpus.words[each["place"].target]
        limit = float(np.abs(each["IG"]).max())
        for method in ("IG", "gradient ⊙ input"):
            ax = next(axes)
            xattr.plot.text(ax, words, each[method], limit=limit)
            head = f"{TITLES[name]}, “{target}” ({float(each['score']):.2g}): "
            text = f"{head if method == 'IG' else ''}{method}, Σ = {_sum(each, method)}"
            ax.set_title(text, loc="left", size=10)
    return figure
