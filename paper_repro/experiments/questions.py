"""Which words tell a network what type of answer a question has (slides, experiment 2)."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro.data import questions as data
from paper_repro.data.questions import CLASSES, NINE, Questions
from paper_repro.networks import question_cnn as cnn
from paper_repro.report import triggers
from paper_repro.report.progress import shown
from paper_repro.report.results import Claim, Result, Setting, Table, decimal
from paper_repro.report.triggers import Explained

WITHIN = 0.05
"""How far a sum may be from the change of the score, as a share of the score."""
SHORT = 20
"""Questions with fewer words are run at this length; padding makes no difference to the network."""


class Size(NamedTuple):
    """How much is trained and measured."""

    recipe: cnn.Recipe
    train: int
    """Training questions from which rules are distilled."""
    test: int
    nodes: int


FULL = Size(cnn.Recipe(), 4_000, 5_000, 32)
QUICK = Size(cnn.Recipe(width=16, maps=12, epochs=10), 100, 150, 16)
PRINTED = {"NUMERIC": ("how", "many"), "DATETIME": ("when", "year")}
"""Words that the slides and the paper name as what tells a class."""


def run(setting: Setting) -> Result:
    """Train the network, explain the slides' nine questions, and sum up the test questions."""
    size = QUICK if setting.quick else FULL
    recipe = size.recipe._replace(seed=setting.seed)
    questions = data.load(setting.wtq_dir, quick=setting.quick, seed=setting.seed)
    trained = cnn.train(recipe, questions, progress=setting.progress)
    explain = functools.partial(
        _explained, recipe, trained.params, data.vocabulary(questions.train), size.nodes, setting
    )
    nine = explain([data.words_of(question) for question in NINE], "nine questions")
    test = explain(questions.test[: size.test], "test questions")
    order = np.random.default_rng(setting.seed).permutation(len(questions.train))[: size.train]
    train = explain([questions.train[i] for i in order], "training questions")
    rules = _rules(train, test, questions.test_labels[: size.test])
    numbers = {
        "questions": questions.name,
        "classes": _counts(questions),
        "accuracy": {"train": trained.train, "test": trained.test},
        "training": {"steps": trained.steps, "seconds": trained.seconds},
        "nine": [_numbers_of(nine, i) for i in range(len(NINE))],
        "words": triggers.largest(test, 1),
        "pairs": triggers.largest(test, 2),
        "silent": triggers.silent(test, questions.train, questions.train_labels),
        "completeness": np.abs(test.sums - test.changes) / test.scores,
        "rules": rules,
    }
    return Result(
        f"What tells a network the type of a question's answer: {questions.name}",
        {"": _draw_nine(nine), "words": _draw_words(numbers["words"])},
        numbers,
        _claims(numbers, nine),
        [_table_of_words(numbers), _table_of_rules(rules["IG"]["list"]), _table_of_fidelity(rules)],
        _notes(numbers, recipe, trained, size),
    )


def _counts(questions: Questions) -> dict[str, dict[str, int]]:
    parts = {"train": questions.train_labels, "test": questions.test_labels}
    return {
        part: dict(zip(CLASSES, np.bincount(labels, minlength=4).tolist(), strict=True))
        for part, labels in parts.items()
    }


# What is measured -------------------------------------------------------------------------------


def _explained(
    recipe: cnn.Recipe,
    params: Any,
    words: tuple[str, ...],
    nodes: int,
    setting: Setting,
    questions: list[list[str]],
    text: str,
) -> Explained:
    """Attribute the probability of the predicted class to the words of each question."""
    ids = data.encoded(questions, words)
    run = _attribution(recipe, len(words), nodes)
    found: list[Any] = [None] * len(ids)
    lengths = (ids != 0).sum(axis=1)
    groups = [np.flatnonzero(lengths < SHORT), np.flatnonzero(lengths >= SHORT)]
    batches = [
        (group[i : i + 50], length)
        for group, length in zip(groups, (SHORT, data.LENGTH), strict=True)
        for i in range(0, len(group), 50)
    ]
    for batch, length in shown(batches, text, setting.progress):
        padded = np.zeros((50, length), np.int32)  # one shape, so that it is compiled once
        padded[: len(batch)] = ids[batch, :length]
        values = jax.tree.map(np.asarray, run(padded, params))
        for place, number in enumerate(batch):
            found[number] = jax.tree.map(lambda leaf, place=place: leaf[place], values)
    maps = {
        method: [
            each[method][: len(q)].astype(float) for each, q in zip(found, questions, strict=True)
        ]
        for method in ("IG", "gradient ⊙ input")
    }
    columns = {
        key: np.array([each[key] for each in found]) for key in ("class", "score", "start", "rest")
    }
    return Explained(
        [q[: data.LENGTH] for q in questions],
        columns["class"],
        columns["score"].astype(float),
        (columns["score"] - columns["start"]).astype(float),
        columns["rest"].astype(float),
        maps,
    )


def _attribution(recipe: cnn.Recipe, words: int, nodes: int) -> Any:
    """Return the compiled function (ids, params) -> values of each question."""
    model = functools.partial(cnn.logits, words, recipe)
    embed, rest = xattr.tokens.at_embedding(model)
    f = xattr.targets.probability(rest)
    quadrature = xattr.quadrature.gauss_legendre(nodes)

    def one(ids: Any, params: Any) -> dict[str, Any]:
        x, label = embed(ids, params), jnp.argmax(model(ids, params))
        args = (label, ids, params)
        baseline = xattr.tokens.baseline(x, keep=ids == 0)
        whole = xattr.integrated_gradients(f, x, baseline, quadrature=quadrature, args=args)
        slope = xattr.gradient(f, x, args=args)
        scores = xattr.tokens.per_token(whole)
        return {
            "class": label,
            "score": f(x, *args),
            "start": f(baseline, *args),
            "IG": scores,
            "gradient ⊙ input": xattr.tokens.per_token(slope * x),
            "rest": jnp.abs(jnp.where(ids == 0, scores, 0)).max(),
        }

    return jax.jit(jax.vmap(one, (0, None)))


def _rules(train: Explained, test: Explained, labels: np.ndarray) -> dict[str, Any]:
    """Distil rules from the training questions, and apply them to the test questions."""
    found: dict[str, Any] = {}
    for method in ("IG", "gradient ⊙ input", "frequency"):
        rules = triggers.distil(train, method)
        said = triggers.apply(rules, test.words)
        found[method] = {
            "list": [rule._asdict() for rule in rules],
            "same as the network": float((said == test.classes).mean()),
            "right": float((said == labels).mean()),
        }
    most = np.bincount(train.classes).argmax()
    found["one class"] = {
        "same as the network": float((test.classes == most).mean()),
        "right": float((labels == most).mean()),
    }
    return found


def _numbers_of(explained: Explained, i: int) -> dict[str, Any]:
    return {
        "words": explained.words[i],
        "class": CLASSES[explained.classes[i]],
        "score": explained.scores[i],
        "change": explained.changes[i],
        "IG": explained.maps["IG"][i],
    }


# The report -------------------------------------------------------------------------------------


def _claims(numbers: dict[str, Any], nine: Explained) -> list[Claim]:
    accuracy, rules = numbers["accuracy"]["test"], numbers["rules"]
    printed = [*NINE.values()]
    same = sum(each["class"] == label for each, label in zip(numbers["nine"], printed, strict=True))
    first = [
        Claim("test accuracy", "not printed", f"{100 * accuracy:.1f} %", None),
        Claim(
            "predictions of the nine questions",
            "as printed",
            f"{same} of {len(printed)} as printed",
            same == len(printed),
        ),
    ]
    return [
        *first,
        *_claims_of_words(numbers),
        _claim_of_charles(numbers["nine"][-1]),
        Claim(
            "rules distilled from attributions say what the network says",
            "suggested, not measured",
            f"{100 * rules['IG']['same as the network']:.1f} % of the test questions, by "
            f"{len(rules['IG']['list']) - 1} triggers and a default",
            None,
            f"triggers by gradient ⊙ input "
            f"{100 * rules['gradient ⊙ input']['same as the network']:.1f} %, by frequency "
            f"{100 * rules['frequency']['same as the network']:.1f} %, always the most frequent "
            f"class {100 * rules['one class']['same as the network']:.1f} %",
        ),
        _claim_of_sums(numbers["completeness"], nine),
    ]


def _claims_of_words(numbers: dict[str, Any]) -> list[Claim]:
    claims = []
    for label, words in PRINTED.items():
        ranked = [word for word, *_ in numbers["words"][label]]
        pair = next(iter(numbers["pairs"][label]), ("none",))[0]
        places = {word: ranked.index(word) + 1 if word in ranked else None for word in words}
        shown = ", ".join(
            f"“{word}” {'not among them' if place is None else f'is number {place}'}"
            for word, place in places.items()
        )
        claims.append(
            Claim(
                f"words that tell {label}: those with the largest mean attribution",
                f"“{words[0]}”, “{words[1]}”",
                f"{shown}; the first pair is “{pair}”",
                all(place is not None for place in places.values()),
                f"of the {len(ranked)} words with the largest mean",
            )
        )
    return claims


def _claim_of_charles(question: dict[str, Any]) -> Claim:
    order = np.argsort(-np.asarray(question["IG"]))
    place = question["words"].index("charles")
    rank = int(np.flatnonzero(order == place)[0]) + 1
    value = float(question["IG"][place])
    return Claim(
        "“charles”, a name, adds to YESNO in the last of the nine questions",
        "it is marked",
        f"{decimal(value, 3)}, number {rank} of {len(order)} words",
        value > 0,
        "the slides show it in colour without a number; above 0 counts as agreement",
    )


def _claim_of_sums(gaps: np.ndarray, nine: Explained) -> Claim:
    own = np.abs(nine.sums - nine.changes) / nine.scores
    return Claim(
        "attributions sum to the change of the score",
        "within 5 %",
        f"within {100 * WITHIN:.0f} % of the score in {100 * np.mean(gaps <= WITHIN):.1f} % of the "
        f"test questions; largest gap of the nine {100 * own.max():.2g} %",
        bool(np.mean(gaps <= WITHIN) > 0.95),
        f"median gap {100 * np.median(gaps):.2g} %; padding has exactly 0: "
        f"{'yes' if nine.padding.max() == 0 else 'no'}",
    )


def _table_of_words(numbers: dict[str, Any]) -> Table:
    rows = [
        [
            label,
            *(_listed(numbers[kind][label]) for kind in ("words", "pairs")),
            ", ".join(
                f"{word} {decimal(mean, 2)} ({_share(share)})"
                for word, mean, _, share in numbers["silent"][label]
            )
            or "none",
        ]
        for label in CLASSES
    ]
    last = "words that do not ask (share of the class in training questions with the word)"
    head = ["predicted class", "words", "pairs of words", last]
    return Table("Words with the largest mean attribution to the predicted class", head, rows)


def _share(share: float) -> str:
    return "new" if np.isnan(share) else f"{100 * share:.0f} %"


def _listed(entries: Any) -> str:
    return ", ".join(f"{word} {decimal(mean, 2)}" for word, mean, *_ in entries) or "none"


def _table_of_rules(rules: list[dict[str, Any]]) -> Table:
    rows = [
        [
            f"“{rule['trigger']}”" if rule["trigger"] else "else",
            CLASSES[rule["label"]],
            str(rule["covered"]),
            f"{100 * rule['right'] / max(1, rule['covered']):.0f} %",
        ]
        for rule in rules
    ]
    head = ["if the question has", "then", "training questions", "of these as the network"]
    return Table("Rules from attributions: the first that fits decides", head, rows)


def _table_of_fidelity(rules: dict[str, Any]) -> Table:
    rows = []
    for name, title in {
        "IG": "triggers by integrated gradients",
        "gradient ⊙ input": "triggers by gradient ⊙ input",
        "frequency": "the most frequent words and pairs",
        "one class": "always the most frequent class",
    }.items():
        found = rules[name]
        cells = [f"{100 * found[key]:.1f} %" for key in ("same as the network", "right")]
        rows.append([title, str(max(0, len(found.get("list", ())) - 1)), *cells])
    head = ["rules", "triggers", "as the network", "as the answer"]
    return Table("Rules on the test questions", head, rows)


def _notes(
    numbers: dict[str, Any], recipe: cnn.Recipe, trained: cnn.Trained,
    size: Size,
) -> list[str]:  # fmt: skip
    counts = numbers["classes"]
    parts = "; ".join(
        f"{label} {counts['train'][label]:,} and {counts['test'][label]:,}" for label in CLASSES
    )
    return [
        "With `--wtq-dir` the questions are those of WikiTableQuestions: `training.tsv` to train "
        "on, `pristine-unseen-tables.tsv` for the test; without it a grammar of ours makes them. "
        f"Questions to train on and for the test: {parts}. The nine questions of the slides are "
        "not trained on.",
        "The class comes from the answer. Yes and no are YESNO. Months, dates, decades and pairs "
        "of years are DATETIME; so is a number from 1000 to 2099 if the question has “year”, "
        "“when” or “date” and does not ask for a number. Numbers, with a unit or without, are "
        "NUMERIC. All else is STRING.",
        f"The network is Kim's: windows of {', '.join(map(str, cnn.WINDOWS))} words with "
        f"{recipe.maps} maps each, dropout {decimal(recipe.dropout, 1)}, ‖w‖ of a class at most "
        f"{recipe.norm:.0f}, batches of {recipe.batch}, Adadelta, embeddings of {recipe.width} "
        f"drawn at random; {recipe.epochs} epochs, {trained.steps:,} steps in "
        f"{trained.seconds / 60:.1f} minutes on two shared cores.",
        "Explained is the probability of the predicted class, from the baseline of zero embeddings "
        f"that keeps the padding, with {size.nodes} nodes. In the picture one scale of colours is "
        "for all nine questions, and ends where 4 % of their words are beyond. Words are listed "
        "that come at least three times among the questions of the class, and once in 200 of "
        "them. A word that does "
        "not ask is one outside a list of question words, auxiliaries, and words of number and "
        "time (`triggers.ASKING`): it may be what the question is about, or a cue that means "
        "nothing.",
        "Rules: the words and pairs that have the largest total attribution over "
        f"{size.train:,} training questions are candidates. One after the other, the one is taken "
        "that gains most among the questions that no earlier rule covers: those right less "
        f"{triggers.PENALTY} times those wrong; at most {triggers.RULES}.",
    ]


def _draw_nine(nine: Explained) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6.6), layout="constrained")
    limit = float(np.percentile(np.abs(np.concatenate(nine.maps["IG"])), 96))
    axes = figure.subplots(len(NINE), 1)
    for i, ax in enumerate(axes):
        last = i == len(NINE) - 1  # its colours are those of all
        xattr.plot.text(ax, nine.words[i], nine.maps["IG"][i], limit=limit, colorbar=last)
        text = f"prediction: {CLASSES[nine.classes[i]]} ({decimal(nine.scores[i], 3)})"
        ax.set_title(text, loc="left", size=9)
    return figure


def _draw_words(words: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for ax, label in zip(figure.subplots(1, len(CLASSES)), CLASSES, strict=True):
        names, means = [w for w, *_ in words[label]], [m for _, m, _ in words[label]]
        ax.barh(range(len(names)), means, color="tab:red", alpha=0.7)
        ax.set_yticks(range(len(names)), names, size=9)
        ax.invert_yaxis()
        ax.set(title=label, xlabel="mean attribution")
    return figure
