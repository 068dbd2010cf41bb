"""Networks that screen molecules for affinity (counterfactuals, §3.1, figs. 7 and 13)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro.data.molecules import BONDS, TARGETS, Molecule
from paper_repro.experiments import screening_networks
from paper_repro.experiments.screening_accuracy import (
    BAGS,
    NETWORKS,
    accuracy_of,
    differences_of,
    scores_of,
    training_accuracy_of,
)
from paper_repro.networks import weave
from paper_repro.report.progress import shown
from paper_repro.report.results import Claim, Result, Setting, Table, decimal, with_interval

ACCURACIES = ("auc", "training auc", "difference to W1N2")
PARTS = ("atoms", "bonded pairs", "other pairs")
PAPER_SHARES = (0.57, 0.46, -0.03)
"""The paper prints the last two; the first is what is left."""
SIZE = 48
"""All attributed molecules are padded to this many atoms, so that they share one program."""
ALPHAS = np.linspace(0, 1, 51, dtype=np.float32)
SATURATED = 0.9
GOOD, EQUIVALENT = 0.75, 0.02
"""A mean AUC that counts as good, and a difference that counts as none."""
FULL, QUICK = (25, 500), (5, 50)
"""Active molecules, and resamplings of a test set."""


class Maps(NamedTuple):
    """Attributions of the probability for one molecule."""

    atoms: np.ndarray
    """Of each atom, (n,)."""
    pairs: np.ndarray
    """Of each pair, (m,)."""
    change: float
    """F(x) − F(0)."""


def run(setting: Setting) -> Result:
    """Train four networks on three targets, and attribute active molecules by W2N2."""
    count, resamplings = QUICK if setting.quick else FULL
    screening = screening_networks.load(setting)
    params = {name: screening_networks.trained(name, screening, setting) for name in NETWORKS}
    scores = {name: scores_of(name, screening, params[name]) for name in NETWORKS}
    accuracy = {name: accuracy_of(found, screening, resamplings) for name, found in scores.items()}
    chosen = _actives(screening, scores["W2N2"], count, setting)
    molecules = [screening.molecules[i] for i in chosen]
    curves = _curves(molecules, params["W2N2"])
    maps = [
        _map(each, params["W2N2"]) for each in shown(molecules, "attributing", setting.progress)
    ]
    shares = np.array([_shares(m, each) for m, each in zip(maps, molecules, strict=True)])
    shown_one = int(np.argmax([m.change for m in maps]))
    one = screening.smiles[chosen[shown_one]]
    numbers = {
        "auc": accuracy,
        "training auc": {
            name: training_accuracy_of(name, screening, params[name]) for name in NETWORKS
        },
        "difference to W1N2": differences_of(scores, screening, resamplings),
        "alphas": ALPHAS,
        "probability": curves[0],
        "total gradient": curves[1],
        "shares": {part: shares[:, i] for i, part in enumerate(PARTS)},
        "gap": [m.atoms.sum() + m.pairs.sum() - m.change for m in maps],
        "drawn": one,
        "pairs for each bond": _pairs_for_each_bond(molecules),
    }
    figures = {
        "": _draw_curves(curves),
        "molecule": _draw_molecule(one, molecules[shown_one], maps[shown_one]),
        "shares": _draw_shares(shares),
    }
    return Result(
        "Ligand screening: which atoms and bonds a network looks at",
        figures,
        numbers,
        _claims(numbers, shares, shown_one),
        [_accuracy_table(*(numbers[name] for name in ACCURACIES)), _shares_table(shares)],
        _notes(screening, len(chosen)),
    )


def _actives(screening: Any, scores: np.ndarray, count: int, setting: Setting) -> list[int]:
    """Return test molecules that bind thrombin and that the network calls active."""
    right = screening.test[:, 0] & screening.active[:, 0] & (scores[:, 0] > 0)
    if right.sum() < 2:  # of a network that is trained for seconds
        right = screening.test[:, 0] & screening.active[:, 0]
    small = [i for i in np.flatnonzero(right) if len(screening.molecules[i].atoms) <= SIZE]
    drawn = np.random.default_rng(setting.seed).permutation(small)[:count]
    return [int(i) for i in drawn]


def _padded(molecule: Molecule) -> Any:
    return weave.pad(molecule, max(SIZE, weave.size_class(molecule)))


def _curves(molecules: list[Molecule], params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability at α x, and Σᵢ xᵢ ∂F/∂xᵢ there, (molecules, alphas)."""
    module = weave.network("W2N2", len(TARGETS))
    score = weave.score_of(module, "probability")

    @jax.jit
    def of_one(x: Any, graph: Any, params: Any) -> Any:
        def at(alpha: Any) -> Any:
            return score(jax.tree.map(lambda values: alpha * values, x), graph, 0, params)

        args = (graph, 0, params)
        slopes = xattr.interior_gradients(score, x, alphas=jnp.asarray(ALPHAS), args=args)
        totals = [jnp.einsum("ij,kij->k", x[name], slopes[name]) for name in ("atoms", "pairs")]
        return jax.vmap(at)(jnp.asarray(ALPHAS)), totals[0] + totals[1]

    found = [of_one(*_padded(each), params) for each in molecules]
    chances, totals = (np.stack([np.asarray(each[i]) for each in found]) for i in (0, 1))
    return chances, totals


@jax.jit
def _integrated(x: Any, graph: Any, params: Any) -> Any:
    score = weave.score_of(weave.network("W2N2", len(TARGETS)), "probability")
    nodes = xattr.quadrature.gauss_legendre(128)
    args = (graph, 0, params)
    found = xattr.integrated_gradients(score, x, quadrature=nodes, args=args, warn_above=None)
    return found, score(x, *args) - score(jax.tree.map(jnp.zeros_like, x), *args)


def _map(molecule: Molecule, params: Any) -> Maps:
    """Return integrated gradients of the probability, from all features zero."""
    found, change = _integrated(*_padded(molecule), params)
    atoms, pairs = (np.asarray(found[name]).sum(axis=1) for name in ("atoms", "pairs"))
    return Maps(atoms[: len(molecule.atoms)], pairs[: len(molecule.pairs)], float(change))


def _shares(maps: Maps, molecule: Molecule) -> list[float]:
    """Return the parts of atoms, bonded pairs and other pairs in the sum."""
    bonded = molecule.pairs[:, : len(BONDS)].any(axis=1)
    sums = np.array([maps.atoms.sum(), maps.pairs[bonded].sum(), maps.pairs[~bonded].sum()])
    return (sums / sums.sum()).tolist()


def _pairs_for_each_bond(molecules: list[Molecule]) -> float:
    kinds = np.concatenate([molecule.pairs for molecule in molecules]).sum(axis=0)
    return float(kinds[len(BONDS) :].sum() / kinds[: len(BONDS)].sum())


def _claims(numbers: dict[str, Any], shares: np.ndarray, shown_one: int) -> list[Claim]:
    chances = np.asarray(numbers["probability"])
    place = int(np.argmin(np.abs(ALPHAS - SATURATED)))
    # As in `saturation`: the last tenth of the path changes the score by less than a tenth.
    flat = np.ptp(chances[:, place:], axis=1) < 0.1 * chances[:, -1]
    slopes = np.asarray(numbers["total gradient"])
    varies = np.ptp(slopes, axis=1) / np.abs(slopes[:, -1:]).mean(axis=1)
    gaps = np.abs(numbers["gap"]) / np.abs(chances[:, -1] - chances[:, 0])
    return [
        Claim(
            "the probability is saturated for .9 ≤ α ≤ 1",
            "saturation does exist near the input",
            f"{flat.sum()} of {len(flat)} molecules change by less than a tenth of their score "
            "there",
            bool(flat.mean() > 0.5),
        ),
        Claim(
            "the total gradient varies along the path",
            "varies significantly",
            f"its range is {np.median(varies):.1f} times its size at the molecule (median)",
            bool(np.median(varies) > 1),
        ),
        Claim(
            "attributions sum to the change of the score",
            "they add up to the score",
            f"the largest gap is {100 * gaps.max():.2f} %",
            bool(gaps.max() < 0.05),
            "128 nodes of Gauss and Legendre",
        ),
        *_claims_of_shares(shares, shown_one, numbers),
        *_claims_of_accuracy(*(numbers[name] for name in ACCURACIES)),
    ]


def _claims_of_shares(shares: np.ndarray, shown_one: int, numbers: dict[str, Any]) -> list[Claim]:
    middle = np.median(shares, axis=0)
    one = ", ".join(_percent(value) for value in shares[shown_one])
    why = (
        "medians; the paper's are of one molecule, target and network, and it does not print the "
        f"share of atoms. The drawn molecule, {numbers['drawn']}, has {one}"
    )
    remarks = (
        why,
        "agrees if the paper's share lies among those of the molecules",
        f"the molecules have {numbers['pairs for each bond']:.1f} other pairs for each bond",
    )
    return [
        Claim(
            f"share of the score from {part}",
            f"{'about ' if i == 0 else ''}{_percent(PAPER_SHARES[i])}",
            f"{_percent(middle[i])} (from {_percent(shares[:, i].min())} to "
            f"{_percent(shares[:, i].max())})",
            bool(shares[:, i].min() <= PAPER_SHARES[i] <= shares[:, i].max()),
            remarks[i],
        )
        for i, part in enumerate(PARTS)
    ]


def _claims_of_accuracy(accuracy: Any, training: Any, differences: Any) -> list[Claim]:
    def mean(name: str) -> str:
        return decimal(float(np.mean([each[0] for each in accuracy[name].values()])))

    better = differences["W2N2"]
    claims = [
        Claim(
            "W1N2 has a good predictive accuracy",
            "good, despite its dead features",
            f"mean ROC AUC {mean('W1N2')}; W2N2 has {mean('W2N2')}, by "
            f"{with_interval(-better[0], -better[2], -better[1])} more",
            bool(np.mean([each[0] for each in accuracy["W1N2"].values()]) > GOOD),
            f"agrees if the mean is above {decimal(GOOD, 2)}",
        )
    ]
    for name in BAGS:
        claims.append(
            Claim(
                f"a {name} is as accurate as W1N2",
                "equivalent accuracy is suggested",
                f"mean ROC AUC {mean(name)} against {mean('W1N2')}, difference "
                f"{with_interval(*differences[name])}",
                bool(differences[name][0] < EQUIVALENT),
                f"agrees if the mean is less than {decimal(EQUIVALENT, 2)} below; on training "
                f"molecules {decimal(training[name])} against {decimal(training['W1N2'])}",
            )
        )
    return claims


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %".replace("-", "−")


def _accuracy_table(accuracy: Any, training: Any, differences: Any) -> Table:
    rows = []
    for name, found in accuracy.items():
        cells = [with_interval(*found[target.name]) for target in TARGETS]
        less = with_interval(*differences[name]) if name in differences else "—"
        rows.append([name, *cells, less, decimal(training[name])])
    head = ["network", *(target.name for target in TARGETS), "mean, below W1N2", "mean in training"]
    return Table("ROC AUC on the benchmark's test molecules, with 95 % intervals", head, rows)


def _shares_table(shares: np.ndarray) -> Table:
    rows = [
        [part, _percent(paper), *(_percent(q) for q in np.percentile(shares[:, i], [50, 0, 100]))]
        for i, (part, paper) in enumerate(zip(PARTS, PAPER_SHARES, strict=True))
    ]
    head = ["part", "paper", "median", "least", "most"]
    return Table("Parts of the score under W2N2", head, rows)


def _notes(screening: Any, count: int) -> list[str]:
    measured = screening.known.sum(axis=0)
    counts = ", ".join(
        f"{target.name} {number:,}" for target, number in zip(TARGETS, measured, strict=True)
    )
    return [
        f"Molecules and the split are those of MoleculeACE ({counts} molecules); below 100 nM a "
        "molecule is active. PCBA, which the paper takes, is not on PyPI. One network has the "
        "three targets as tasks, and does not train on molecules that test any of them. "
        f"{screening.left_out} molecules of more than {screening_networks.LARGEST} atoms, or "
        f"of more than {weave.PAIRS * screening_networks.LARGEST} pairs, are left out.",
        "W2N2 has two Weave modules and W1N2 one; both take pairs up to distance 2. Weave modules "
        "of width 50, 128 features of an atom, a Gaussian histogram of 11 bins, dense layers of "
        f"2000 and 100 with dropout .25; {screening_networks.EPOCHS} epochs of AdamW. The bags "
        "have the same dense layers on counts: of atom types, of these and of pair features, or of "
        f"the {screening_networks.COMMON} most common surroundings, which are what W1N2 sees of an "
        "atom: its type and the multiset of its pairs.",
        f"Attributions are integrated gradients of the probability for thrombin of {count} active "
        "test molecules that W2N2 calls active, from all features zero. The total gradient is "
        "Σᵢ xᵢ ∂F/∂xᵢ, over the features that a molecule has.",
        "The drawn molecule is the one with the highest probability. In the matrix a pair has its "
        "attribution on both sides of the diagonal.",
    ]


def _draw_curves(curves: tuple[np.ndarray, np.ndarray]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    labels = ("probability of thrombin", "Σᵢ xᵢ ∂F/∂xᵢ")
    for ax, values, label in zip(axes, curves, labels, strict=True):
        ax.plot(ALPHAS, values.T, linewidth=1, alpha=0.7)
        ax.set_xlabel("α (scale of all features)")
        ax.set_ylabel(label)
        ax.axvspan(SATURATED, 1, color="0.9", zorder=0)
    axes[0].set_ylim(0, 1)
    return figure


def matrix(maps: Maps, molecule: Molecule) -> np.ndarray:
    """Return atoms on the diagonal and pairs on both sides of it, (n, n)."""
    found = np.diag(maps.atoms)
    for value, (i, j) in zip(maps.pairs, molecule.ends, strict=True):
        found[i, j] = found[j, i] = value
    return found


def _draw_molecule(smiles: str, molecule: Molecule, maps: Maps) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    xattr.plot.molecule(
        left, smiles, maps.atoms, pairs=maps.pairs, ends=molecule.ends, numbers=True, colorbar=True
    )
    left.set_title("atoms and bonds", size=11)
    xattr.plot.heatmap(right, matrix(maps, molecule), percentile=100, colorbar=True)
    ticks = range(0, len(maps.atoms), 5)
    right.set(xticks=ticks, yticks=ticks, xlabel="atom", ylabel="atom")
    right.set_title("atoms (diagonal) and pairs up to distance 2", size=11)
    return figure


def _draw_shares(shares: np.ndarray) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    ax = figure.subplots()
    random = np.random.default_rng(0)
    for i in range(len(PARTS)):
        across = i + random.uniform(-0.15, 0.15, len(shares))
        ax.plot(across, 100 * shares[:, i], "o", color="tab:blue", alpha=0.5, markersize=5)
        ax.plot([i - 0.3, i + 0.3], [100 * PAPER_SHARES[i]] * 2, color="tab:red", linewidth=2)
    ax.plot([], [], "o", color="tab:blue", alpha=0.5, label="a molecule")
    ax.plot([], [], color="tab:red", linewidth=2, label="the paper's molecule")
    ax.axhline(0, color="0.7", linewidth=0.8)
    ax.set_xticks(range(len(PARTS)), PARTS)
    ax.set_ylabel("share of the score (%)")
    ax.legend(loc="lower left")
    return figure
