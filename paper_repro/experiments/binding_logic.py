"""Attributions against binding logics that are known (slides; McCloskey et al. 2019)."""

from typing import Any

import jax
import numpy as np

import xattr
from paper_repro.data import molecules
from paper_repro.data.molecules import Molecule
from paper_repro.experiments import binding_logics
from paper_repro.experiments.atom_methods import METHODS, Size
from paper_repro.experiments.binding_logics import CUE, LOGICS, TRUE, Labelled
from paper_repro.networks import weave
from paper_repro.networks.graph_training import auc
from paper_repro.report.progress import shown
from paper_repro.report.results import (
    Claim,
    Result,
    Setting,
    Table,
    decimal,
    interval,
    with_interval,
)

FULL, QUICK = Size(20, 64, 8, 20), Size(2, 16, 2, 2)
DRAWN = ("integrated gradients", "Grad-CAM", "LRP", "ablation of atoms")
"""The methods whose maps are drawn; with `--quick` the only ones."""
DRAWN_LOGICS = (3, 9, 11)
NEAR_ONE = 0.99
"""The AUC from which a network counts as right."""


def run(setting: Setting) -> Result:
    """Measure every method on logics, on a data set with a cue, and on a pair of molecules."""
    size = QUICK if setting.quick else FULL
    data = binding_logics.load(setting)
    params = binding_logics.trained(data, setting)
    scores, labels = _network_scores(data, params)
    right = {logic.name: auc(scores[:, i], labels[:, i]) for i, logic in enumerate(LOGICS)}
    chosen = _chosen(data, scores, labels, size)
    maps = _all_maps(data, params, chosen, size, setting)
    found = {name: _areas(data, chosen, each) for name, each in maps.items()}
    cue = _with_cue(data, size, setting)
    numbers = {
        "network AUC": right,
        "attribution AUC": found,
        "molecules": {logic.name: len(chosen[i]) for i, logic in enumerate(LOGICS)},
        "cue": {key: value for key, value in cue.items() if key != "maps"},
    }
    return Result(
        "Binding logic: a right network and what its attributions show",
        {
            "": _draw_areas(right, found),
            "examples": _draw_examples(data, chosen, maps),
            "pair": _draw_pair(cue),
        },
        numbers,
        _claims(data, right, found, cue),
        [_table(right, found), _cue_table(cue)],
        _notes(data, size, cue),
    )


def _network_scores(data: Labelled, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels of the test molecules, (n, logics); NaN for the others."""
    rows = np.flatnonzero(data.test)
    scores = weave.logits(_network(len(LOGICS)), params, [data.molecules[i] for i in rows])
    return scores, np.stack([data.binds(logic)[rows] for logic in LOGICS], axis=1)


def _network(tasks: int) -> Any:
    return weave.network("W2N2", tasks)


def _chosen(data: Labelled, scores: Any, labels: Any, size: Size) -> list[list[int]]:
    """Return test molecules that bind, by each logic; those that the network is sure of first."""
    rows = np.flatnonzero(data.test)
    found = []
    for task, logic in enumerate(LOGICS):
        order = np.argsort(-scores[:, task], kind="stable")
        bind = [int(rows[i]) for i in order if labels[i, task]]
        mixed = [i for i in bind if 0 < data.truth(i, logic).mean() < 1]
        found.append(_spread(mixed, size.molecules))
    return found


def _spread(items: list[int], count: int) -> list[int]:
    """Return some items at equal distances."""
    places = np.linspace(0, len(items) - 1, min(count, len(items)))
    return [items[round(float(place))] for place in places]


def _mapper(name: str, tasks: int, size: Size) -> Any:
    """Return `map(molecule, task, params, key) -> (atoms,)` of a method, compiled once."""
    score = weave.score_of(_network(tasks))

    @jax.jit
    def of_one(x: Any, graph: Any, task: Any, params: Any, key: Any) -> Any:
        return METHODS[name](score, x, key, size, (graph, task, params))

    def of(molecule: Molecule, task: int, params: Any, key: Any) -> np.ndarray:
        padded = weave.pad(molecule, binding_logics.SIZE)
        return np.asarray(of_one(*padded, task, params, key))[: len(molecule.atoms)]

    return of


Maps = list[list[np.ndarray]]


def _all_maps(
    data: Labelled, params: Any, chosen: list[list[int]], size: Size, setting: Setting
) -> dict[str, Maps]:
    """Return the scores of the atoms of every molecule, for each method and logic."""
    found: dict[str, Maps] = {}
    key = jax.random.key(setting.seed)
    names = DRAWN if setting.quick else METHODS
    for name in shown(names, "attributing", setting.progress):
        of = _mapper(name, len(LOGICS), size)
        found[name] = [
            [of(data.molecules[i], task, params, jax.random.fold_in(key, i)) for i in few]
            for task, few in enumerate(chosen)
        ]
    return found


def _areas(data: Labelled, chosen: list[list[int]], maps: Maps) -> dict[str, np.ndarray]:
    """Return the AUC of the atoms' scores against the truth, of each molecule of a logic."""
    return {
        logic.name: np.array([auc(m, data.truth(i, logic)) for i, m in zip(few, each, strict=True)])
        for logic, few, each in zip(LOGICS, chosen, maps, strict=True)
    }


def _with_cue(data: Labelled, size: Size, setting: Setting) -> dict[str, Any]:
    """Train with a cue; see whether the test set shows it, and whether attributions do."""
    params = binding_logics.trained_with_cue(data, setting)
    rows = np.flatnonzero(data.test)
    alike = binding_logics.biased(data)[rows]
    true, cue = data.has(TRUE)[rows], data.has(CUE)[rows]
    scores = weave.logits(_network(1), params, [data.molecules[i] for i in rows])[:, 0]
    both = _spread([int(i) for i in rows[true & cue]], size.molecules)
    of, key = _mapper("integrated gradients", 1, size), jax.random.key(setting.seed)
    maps = [of(data.molecules[i], 0, params, key) for i in both]
    marks = {name: [_mark(data, i, name) for i in both] for name in (TRUE, CUE)}
    return {
        "AUC": {
            "as trained": auc(scores[alike], true[alike]),
            "all molecules": auc(scores, true),
            "the cue alone, or the fragment alone": auc(scores[~alike], true[~alike]),
        },
        "attribution AUC": {
            name: [auc(m, mark) for m, mark in zip(maps, marks[name], strict=True)]
            for name in (TRUE, CUE)
        },
        "top atom": {
            name: float(
                np.mean([mark[m.argmax()] for m, mark in zip(maps, marks[name], strict=True)])
            )
            for name in (TRUE, CUE)
        },
        "pair": _pair(data, rows[~true & ~cue], params, size, setting),
    }


def _mark(data: Labelled, number: int, fragment: str) -> np.ndarray:
    found = np.zeros(len(data.molecules[number].atoms), bool)
    found[data.atoms[number][fragment]] = True
    return found


def _pair(data: Labelled, rows: Any, params: Any, size: Size, setting: Setting) -> dict[str, Any]:
    """Return a molecule, the same with a chlorine that raises its score most, and their maps."""
    fewer = [int(i) for i in rows if len(data.molecules[i].atoms) < binding_logics.SIZE]
    edits = [
        (i, text)
        for i in _spread(fewer, 3 * size.molecules)
        for text in molecules.halogenated(data.smiles[i], "Cl")
    ]
    edits = [each for each in edits if TRUE not in binding_logics.fragments(each[1])]
    arrays = [molecules.featurize(text) for _, text in edits]
    after = weave.logits(_network(1), params, arrays)[:, 0]
    before = weave.logits(_network(1), params, [data.molecules[i] for i, _ in edits])[:, 0]
    best = int(np.argmax(after - before))
    of, key = _mapper("integrated gradients", 1, size), jax.random.key(setting.seed)
    number, text = edits[best]
    return {
        "smiles": [data.smiles[number], text],
        "probability": [float(1 / (1 + np.exp(-each[best]))) for each in (before, after)],
        "maps": [of(m, 0, params, key) for m in (data.molecules[number], arrays[best])],
        "edits": len(edits),
        "flipped": int(((before < 0) & (after > 0)).sum()),
    }


def _claims(
    data: Labelled, right: dict[str, float], found: Any, cue: dict[str, Any]
) -> list[Claim]:
    means = {name: _mean(each) for name, each in found.items()}
    good = [name for name, value in right.items() if value >= NEAR_ONE]
    ours = {name: float(np.mean(found["integrated gradients"][name])) for name in good}
    worst = min(ours, key=lambda name: ours[name]) if ours else None
    best = max(means, key=lambda name: means[name])
    top, pair = cue["top atom"], cue["pair"]
    return [
        Claim(
            "a network with an AUC near 1 can have attributions that miss the logic",
            "found for several of its logics",
            "no network is near 1"
            if worst is None
            else f"{len(good)} of {len(right)} logics have a network AUC of at least "
            f"{decimal(NEAR_ONE, 2)}; the worst of these, {worst}, has an attribution AUC of "
            f"{decimal(ours[worst], 2)} by IG",
            None if worst is None else ours[worst] < 0.9,
            "agrees if an attribution AUC is below .9" + _prevalence(data, worst),
        ),
        Claim(
            "IG finds the atoms of the logic better than chance",
            "its method of choice",
            f"attribution AUC {decimal(means['integrated gradients'], 2)}, mean over the logics",
            bool(means["integrated gradients"] > 0.6),
        ),
        Claim(
            "which method finds the atoms best",
            "not compared in the slides",
            f"{best}, {decimal(means[best], 2)}; IG {decimal(means['integrated gradients'], 2)}",
            None,
        ),
        Claim(
            f"a network that is right on its test set looks at a spurious correlate, {CUE}",
            "attributions reveal it",
            f"AUC {decimal(cue['AUC']['as trained'])} on the biased test set; the top atom by IG "
            f"is {CUE} in {_percent(top[CUE])} of the molecules and of the {TRUE} in "
            f"{_percent(top[TRUE])}",
            bool(top[CUE] > top[TRUE]),
        ),
        Claim(
            "it fails where the correlate is absent",
            "predicted by the attributions",
            f"AUC {decimal(cue['AUC']['the cue alone, or the fragment alone'])} on molecules that "
            f"have only one of {CUE} and {TRUE}",
            bool(cue["AUC"]["the cue alone, or the fragment alone"] < 0.5),
        ),
        Claim(
            "an adversarial pair: two molecules that do not bind and differ by the correlate alone",
            "made by hand from the attributions",
            f"one chlorine changes the probability from {decimal(pair['probability'][0], 2)} to "
            f"{decimal(pair['probability'][1], 2)}; {pair['flipped']} of {pair['edits']} such "
            "edits change the prediction",
            bool(pair["probability"][0] < 0.5 < pair["probability"][1]),
            " and ".join(pair["smiles"]),
        ),
    ]


def _prevalence(data: Labelled, name: str | None) -> str:
    """Say how common the fragments of a logic are, and that common ones tell little."""
    if name is None:
        return ""
    logic = next(logic for logic in LOGICS if logic.name == name)
    shares = {fragment: float(data.has(fragment).mean()) for fragment in logic.present}
    text = ", ".join(f"{fragment} in {_percent(share)}" for fragment, share in shares.items())
    common = [fragment for fragment, share in shares.items() if share > 0.9]
    told = f"; a network can do without {' and '.join(common)}" if common else ""
    return f". Of the molecules: {text}{told}"


def _mean(areas: dict[str, np.ndarray]) -> float:
    """Return the mean over the logics of the mean over their molecules."""
    return float(np.mean([each.mean() for each in areas.values()]))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _table(right: dict[str, float], found: Any) -> Table:
    rows = [
        [name, decimal(value), *(decimal(float(each[name].mean()), 2) for each in found.values())]
        for name, value in right.items()
    ]
    rows.append(
        ["mean", decimal(float(np.mean([*right.values()])))]
        + [
            with_interval(*interval(np.concatenate([*each.values()])), digits=2)
            for each in found.values()
        ]
    )
    title = "AUC of the network, and AUC of the atoms' scores against the atoms of the logic"
    return Table(title, ["logic", "network", *found], rows)


def _cue_table(cue: dict[str, Any]) -> Table:
    rows = [[f"network: {name}", decimal(value)] for name, value in cue["AUC"].items()]
    rows += [
        [f"attribution by IG: atoms of the {name}", with_interval(*interval(np.array(each)))]
        for name, each in cue["attribution AUC"].items()
    ]
    return Table(f"AUC where {CUE} tells the label {TRUE} in training", ["of", "AUC"], rows)


def _notes(data: Labelled, size: Size, cue: dict[str, Any]) -> list[str]:
    return [
        f"{len(data.smiles):,} molecules of MoleculeACE with 17 to 32 atoms are labelled by "
        f"{len(LOGICS)} logics over substructures, and one W2N2 learns all; a fifth is for tests. "
        "McCloskey et al. train a network for each of 16 logics on molecules of ZINC, with the "
        "fragments balanced.",
        f"Explained is the logit, from all features zero, for up to {size.molecules} test "
        "molecules of each logic that bind. The truth is the atoms of the fragments that the logic "
        "asks for; a fragment that it forbids has none. An atom's score is its attribution and "
        "half of its pairs'. The AUC is that of the scores within a molecule; chance is .5.",
        f"IG has {size.nodes} nodes; SmoothGrad averages {size.samples} IG maps of noisy features; "
        f"Shapley values are of {size.orders} random orders. Ablation and Shapley values leave out "
        "an atom with all of its pairs. LRP has its default rules. Grad-CAM is that of the last "
        "Weave module, without ReLU.",
        f"The cue: of molecules with both or none of {TRUE} and {CUE} the network learns which "
        f"have {TRUE}. The pair is the one whose score differs most, of "
        f"{cue['pair']['edits']:,} that have a chlorine in place of an aromatic hydrogen.",
    ]


def _draw_areas(right: dict[str, float], found: Any) -> Any:
    from matplotlib.figure import Figure

    values = np.array([[each[name].mean() for name in right] for each in found.values()])
    rows = [[*right.values()], *values]
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(rows, cmap="RdBu_r", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(np.array(rows)):
        dark = abs(value - 0.5) > 0.35
        ax.text(j, i, decimal(value, 2), ha="center", va="center", color="w" if dark else "k")
    ax.axhline(0.5, color="k", linewidth=2)
    ax.set_yticks(range(len(rows)), ["the network", *found])
    ax.set_xticks(range(len(right)), [*right], rotation=35, ha="right")
    figure.colorbar(image, ax=ax, label="AUC (chance .5)", fraction=0.03)
    return figure


def _draw_examples(data: Labelled, chosen: list[list[int]], maps: dict[str, Maps]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.6), layout="constrained")
    axes = figure.subplots(len(DRAWN_LOGICS), len(DRAWN) + 1)
    for line, task in zip(axes, DRAWN_LOGICS, strict=True):
        if not chosen[task]:  # of few molecules
            continue
        number, logic = chosen[task][0], LOGICS[task]
        truth = data.truth(number, logic).astype(float)
        xattr.plot.molecule(line[0], data.smiles[number], truth, size=(400, 360))
        line[0].set_title(logic.name, size=10)
        for ax, name in zip(line[1:], DRAWN, strict=True):
            xattr.plot.molecule(ax, data.smiles[number], maps[name][task][0], size=(400, 360))
            area = auc(maps[name][task][0], truth)
            ax.set_title(f"{name}: AUC {decimal(area, 2)}", size=10)
    for ax in axes.ravel():
        ax.set_axis_off()
    return figure


def _draw_pair(cue: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    pair = cue["pair"]
    figure = Figure(figsize=(9, 4), layout="constrained")
    for ax, text, chance, found in zip(
        figure.subplots(1, 2), pair["smiles"], pair["probability"], pair["maps"], strict=True
    ):
        xattr.plot.molecule(ax, text, found, colorbar=True)
        ax.set_title(f"predicted {TRUE}: {decimal(chance, 2)}", size=11)
    return figure
