"""Atoms that one Weave module cannot tell apart (counterfactuals, §3.1, "dead features")."""

import itertools
from collections import Counter
from typing import Any

import jax
import numpy as np

import xattr
from paper_repro.data import molecules
from paper_repro.data.molecules import BONDS, ELEMENTS, Molecule
from paper_repro.experiments import screening_networks
from paper_repro.experiments.atom_colours import colours
from paper_repro.networks import weave
from paper_repro.report.progress import shown
from paper_repro.report.results import Claim, Result, Setting, Table, decimal

CHAIN = "CCCOCCNC"
"""A molecule small enough to check by hand."""
MODULES = {"W1N2": 1, "W2N2": 2}
CLOSE = 1e-6
"""Attributions that differ by less than this part of the molecule's largest are the same."""
CONDITIONS = (
    "same bonds alone (the paper's condition)",
    "same bonds and as many atoms at distance 2",
    "same neighbourhood after two rounds",
)
NODES = 64
SIZE = 48
"""All molecules are padded to this many atoms, so that they share one program."""
FULL, QUICK = 40, 4
"""Molecules of thrombin's test set."""


def run(setting: Setting) -> Result:
    """Attribute molecules by networks of one and two modules, with random and trained weights."""
    screening = screening_networks.load(setting)
    networks = _networks(screening, setting)
    texts = _molecules(screening, setting)
    arrays = {text: molecules.featurize(text) for text in (CHAIN, *texts)}
    maps = {
        name: {
            text: _atoms(network, arrays[text])
            for text in shown(arrays, f"attributing, {name}", setting.progress)
        }
        for name, network in networks.items()
    }
    shares = {name: _shares({t: maps[name][t] for t in texts}, arrays) for name in networks}
    drawn = _most_coincident(texts, arrays)
    numbers = {
        "chain": {name: found[CHAIN] for name, found in maps.items()},
        "shares": shares,
        "molecules": len(texts),
        "drawn": drawn,
        "groups": {name: _groups(found[drawn], arrays[drawn]) for name, found in maps.items()},
    }
    return Result(
        "Atoms that one convolution cannot tell apart",
        {"": _draw(drawn, {name: found[drawn] for name, found in maps.items()})},
        numbers,
        _claims(maps, shares, drawn, arrays),
        [_chain_table(maps), _shares_table(shares), _groups_table(maps, drawn, arrays)],
        _notes(len(texts)),
    )


def _networks(screening: Any, setting: Setting) -> dict[str, Any]:
    """Return module and float64 parameters of each network, with random and trained weights."""
    found = {}
    for name in MODULES:
        module = weave.network(name, len(molecules.TARGETS))
        random = weave.initialise(module, screening.molecules[0], jax.random.key(setting.seed))
        weights = {
            "random": random,
            "trained": screening_networks.trained(name, screening, setting),
        }
        for kind, params in weights.items():
            found[f"{name}, {kind}"] = (
                module,
                jax.tree.map(lambda w: np.asarray(w, np.float64), params),
            )
    return found


def _molecules(screening: Any, setting: Setting) -> list[str]:
    """Return molecules of thrombin's test set of at most {SIZE} atoms."""
    places = np.flatnonzero(screening.test[:, 0])
    small = [i for i in places if weave.size_class(screening.molecules[i]) <= SIZE]
    random = np.random.default_rng(setting.seed)
    chosen = random.permutation(small)[: QUICK if setting.quick else FULL]
    return [screening.smiles[i] for i in chosen]


def _atoms(network: Any, molecule: Molecule) -> np.ndarray:
    """Return integrated gradients of the logit for thrombin, one number an atom, in float64."""
    module, params = network
    with jax.enable_x64(True):
        features, graph = weave.pad(molecule, SIZE)
        x = jax.tree.map(lambda values: values.astype(np.float64), features)
        found = _integrated(module, x, graph, params)
        return np.asarray(found["atoms"].sum(axis=1))[: len(molecule.atoms)]


@jax.jit(static_argnums=0)
def _integrated(module: Any, x: Any, graph: Any, params: Any) -> Any:
    score, nodes = weave.score_of(module), xattr.quadrature.gauss_legendre(NODES)
    args = (graph, 0, params)
    return xattr.integrated_gradients(score, x, quadrature=nodes, args=args, warn_above=None)


def _shares(maps: dict[str, np.ndarray], arrays: dict[str, Molecule]) -> dict[str, Any]:
    """Return how many pairs of atoms that look alike there are, and the share that coincides.

    A pair counts at the strongest condition that it meets.
    """
    pairs: Counter[str] = Counter()
    equal: Counter[str] = Counter()
    for text, found in maps.items():
        kinds, close = colours(arrays[text]), CLOSE * np.abs(found).max()
        for i, j in itertools.combinations(range(len(found)), 2):
            met = [name for name, c in zip(CONDITIONS, kinds, strict=True) if c[i] == c[j]]
            if met:
                pairs[met[-1]] += 1
                equal[met[-1]] += bool(abs(found[i] - found[j]) <= close)
    return {name: {"pairs": pairs[name], "equal": equal[name]} for name in CONDITIONS}


def _groups(found: np.ndarray, molecule: Molecule) -> list[dict[str, Any]]:
    """Return the atoms that coincide and look different after two rounds, from the largest set."""
    kinds, close = colours(molecule).rounds, CLOSE * np.abs(found).max()
    sets: dict[tuple[int, ...], float] = {}
    for value in found:
        atoms = tuple(np.flatnonzero(np.abs(found - value) <= close).tolist())
        if len({kinds[i] for i in atoms}) > 1:
            sets[atoms] = float(value)
    return [
        {"atoms": list(atoms), "value": value}
        for atoms, value in sorted(sets.items(), key=lambda each: -len(each[0]))
    ]


def _most_coincident(texts: list[str], arrays: dict[str, Molecule]) -> str:
    """Return the molecule whose atoms look alike to one module and are most different to two."""

    def count(text: str) -> int:
        kinds = colours(arrays[text])
        sets: dict[Any, set[Any]] = {}
        for pairs, rounds in zip(kinds.pairs, kinds.rounds, strict=True):
            sets.setdefault(pairs, set()).add(rounds)
        return max(len(each) for each in sets.values())

    small = [text for text in texts if len(arrays[text].atoms) <= 32]
    return max(small or texts, key=count)


def _claims(maps: Any, shares: Any, drawn: str, arrays: Any) -> list[Claim]:
    claims = []
    for kind in ("random", "trained"):
        one, two = shares[f"W1N2, {kind}"], shares[f"W2N2, {kind}"]
        paper, sharp, rounds = CONDITIONS
        first, second, third = one[sharp], two[sharp], one[paper]
        claims += [
            Claim(
                f"{kind} weights, W1N2: atoms of one type with the same multiset of pair features "
                "get the same attribution",
                "the same",
                _of(first),
                first["equal"] == first["pairs"],
                "of pairs of atoms that two rounds tell apart",
            ),
            Claim(
                f"{kind} weights, W2N2: these atoms get different attributions",
                "not so with two or more convolutions",
                f"{_of(second)} are the same",
                second["equal"] == 0,
            ),
            Claim(
                f"{kind} weights, W1N2: the same number of bonds of each type is enough",
                "enough",
                f"{_of(third)} are the same",
                third["equal"] == third["pairs"],
                "pairs at distance 2 are features, too: atoms coincide if they also have as many "
                "of these",
            ),
            Claim(
                f"{kind} weights, W2N2: atoms with the same neighbourhood after two rounds of "
                "refinement get the same attribution",
                "—",
                _of(two[rounds]),
                None,
                "so two modules have dead features as well, of which symmetric atoms are a part",
            ),
        ]
    groups = _groups(maps["W1N2, trained"][drawn], arrays[drawn])
    text = _list(groups[0], maps["W1N2, trained"][drawn]) if groups else "none"
    claims.append(
        Claim(
            "W1N2, trained: atoms of one molecule that coincide although their neighbours differ",
            "C at 2, 3, 14, 15 and 16 have .0043",
            text,
            bool(groups) and len(groups[0]["atoms"]) >= 3,
            f"the paper does not print its molecule; here {drawn}, numbered from 0 as in the "
            "figure",
        )
    )
    return claims


def _of(counts: dict[str, int]) -> str:
    return f"{counts['equal']:,} of {counts['pairs']:,} pairs"


def _list(group: dict[str, Any], found: np.ndarray) -> str:
    atoms = ", ".join(map(str, group["atoms"]))
    return f"{atoms} have {decimal(group['value'], 6)}"


def _chain_table(maps: Any) -> Table:
    """Return the attributions of the chain, with what each atom looks like."""
    arrays = molecules.featurize(CHAIN)
    kinds = colours(arrays)
    names = [*BONDS, "distance 2"]
    rows = []
    for atom, colour in enumerate(kinds.pairs):
        near = Counter(names[kind].lower() for kind in colour[1:])
        rows.append(
            [
                f"{ELEMENTS[colour[0]]}{atom + 1}",
                ", ".join(f"{count} × {name}" for name, count in sorted(near.items())),
                *(decimal(found[CHAIN][atom], 6) for found in maps.values()),
            ]
        )
    title = f"Integrated gradients of the chain {'-'.join(CHAIN)}"
    return Table(title, ["atom", "its pairs", *maps], rows)


def _shares_table(shares: Any) -> Table:
    rows = [[name, *(_of(found[name]) for found in shares.values())] for name in CONDITIONS]
    title = "Pairs of atoms of one type whose attributions are the same, by how alike they look"
    return Table(title, ["strongest condition that the pair meets", *shares], rows)


def _groups_table(maps: Any, drawn: str, arrays: Any) -> Table:
    rows = []
    for name, found in maps.items():
        groups = _groups(found[drawn], arrays[drawn])
        for group in [*groups] or [{}]:
            rows.append([name, *_row(group, arrays[drawn])])
    title = "Atoms of the drawn molecule that coincide although two rounds tell them apart"
    return Table(title, ["network", "type", "atoms", "attribution"], rows)


def _row(group: dict[str, Any], molecule: Molecule) -> list[str]:
    if not group:
        return ["—", "none", "—"]
    kind = ELEMENTS[int(molecule.atoms[group["atoms"][0]].argmax())]
    return [kind, ", ".join(map(str, group["atoms"])), decimal(group["value"], 6)]


def _notes(count: int) -> list[str]:
    return [
        "Integrated gradients of the logit for thrombin from all features zero, in float64, with "
        f"{NODES} nodes of Gauss and Legendre. An atom's attribution is that of its type. Two are "
        "the same if they differ by at most a millionth of the molecule's largest.",
        f"Statistics are over {count} molecules of thrombin's test set, of at most {SIZE} atoms. "
        "The trained networks are those of `ligand-screening`; random weights are those that "
        "training starts from.",
        "Two rounds of refinement: an atom looks like its type, then like its type and what its "
        "pairs and their other atoms look like, and so once more.",
        "The drawn molecule is the one with the most kinds of atoms that look alike to one module, "
        "among those of at most 32 atoms.",
    ]


def _draw(drawn: str, maps: dict[str, np.ndarray]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.5), layout="constrained")
    axes = figure.subplots(2, 2)
    for ax, (name, found) in zip(axes.T.ravel(), maps.items(), strict=True):
        xattr.plot.molecule(ax, drawn, found, numbers=True, colorbar=True)
        ax.set_title(name, size=11)
    return figure
