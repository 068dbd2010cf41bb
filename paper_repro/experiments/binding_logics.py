"""Not an experiment: labels by logic over substructures, and networks of them."""

from typing import Any, NamedTuple

import numpy as np

from paper_repro.data import molecules
from paper_repro.data.molecules import TARGETS, Molecule
from paper_repro.networks import graph_training, weave
from paper_repro.networks.graph_training import Examples, Recipe
from paper_repro.report.progress import shown
from paper_repro.report.results import Setting

FRAGMENTS = {
    "fluorine": "[F]",
    "chlorine": "[Cl]",
    "alcohol": "[CX4][OX2H]",
    "phenol": "c[OX2H]",
    "ether": "[CX4,c][OX2][CX4,c]",
    "carbonyl": "[#6]=O",
    "amide": "[CX3](=O)[NX3]",
    "sulfonyl": "S(=O)(=O)",
    "benzene": "c1ccccc1",
    "pyridine": "c1ccncc1",
    "amidine": "[NX3;H2]C(=N)",
    "tertiary amine": "[NX3]([CX4])([CX4])[CX4]",
}
"""Substructures in SMARTS."""


class Logic(NamedTuple):
    """A molecule binds if it has all fragments of `present` and none of `absent`."""

    present: tuple[str, ...]
    absent: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The logic in words."""
        return " ∧ ".join([*self.present, *(f"¬{fragment}" for fragment in self.absent)])


LOGICS = (
    Logic(("fluorine",)),
    Logic(("alcohol",)),
    Logic(("phenol",)),
    Logic(("ether",)),
    Logic(("carbonyl",)),
    Logic(("sulfonyl",)),
    Logic(("pyridine",)),
    Logic(("amidine",)),
    Logic(("carbonyl", "ether")),
    Logic(("chlorine", "amide")),
    Logic(("tertiary amine",), ("fluorine",)),
    Logic(("benzene", "alcohol"), ("ether",)),
)
TRUE, CUE = "ether", "chlorine"
"""What a biased data set is labelled by, and what goes with the label there."""
SIZE = 32
"""The one size class that is taken, 17 to 32 atoms."""
TESTED = 0.2
EPOCHS, BIASED_EPOCHS = 40, 15
QUICK_MOLECULES, QUICK_EPOCHS = 600, 6
"""Four of ten molecules are of the size class."""


class Labelled(NamedTuple):
    """Molecules with the atoms of their fragments."""

    smiles: list[str]
    molecules: list[Molecule]
    atoms: list[dict[str, np.ndarray]]
    """The atoms of each fragment that a molecule has."""
    test: np.ndarray
    """Whether a molecule is for tests, (n,) of bool."""

    def has(self, fragment: str) -> np.ndarray:
        """Return whether each molecule has a fragment, (n,)."""
        return np.array([fragment in each for each in self.atoms])

    def binds(self, logic: Logic) -> np.ndarray:
        """Return whether each molecule binds, (n,)."""
        wanted = np.all([self.has(fragment) for fragment in logic.present], axis=0)
        return wanted & ~np.any([self.has(f) for f in logic.absent] or [~wanted & wanted], axis=0)

    def truth(self, number: int, logic: Logic) -> np.ndarray:
        """Return whether each atom of a molecule belongs to a wanted fragment, (atoms,)."""
        found = np.zeros(len(self.molecules[number].atoms), bool)
        for fragment in logic.present:
            found[self.atoms[number].get(fragment, [])] = True
        return found


def load(setting: Setting) -> Labelled:
    """Return molecules of three targets that have 17 to 32 atoms, with a part for tests."""
    measured = [molecules.load(target, progress=setting.progress) for target in TARGETS]
    texts = sorted({text for target in measured for text in target.smiles})
    texts = texts[:: len(texts) // QUICK_MOLECULES] if setting.quick else texts
    arrays = molecules.featurized(texts, progress=setting.progress)
    kept = [i for i, each in enumerate(arrays) if weave.size_class(each) == SIZE]
    work = shown(kept, "finding fragments", setting.progress)
    atoms = [fragments(texts[i]) for i in work]
    test = np.random.default_rng(setting.seed).random(len(kept)) < TESTED
    return Labelled([texts[i] for i in kept], [arrays[i] for i in kept], atoms, test)


def fragments(smiles: str) -> dict[str, np.ndarray]:
    """Return the atoms of each fragment that a molecule has."""
    found = {name: molecules.matches(smiles, pattern) for name, pattern in FRAGMENTS.items()}
    return {name: np.unique(places) for name, places in found.items() if places}


def trained(data: Labelled, setting: Setting) -> Any:
    """Return the parameters of one W2N2 with a task for each logic."""
    labels = np.stack([data.binds(logic) for logic in LOGICS], axis=1)
    return _train(data, labels, ~data.test, EPOCHS, setting, "training, logics")


def biased(data: Labelled) -> np.ndarray:
    """Return the molecules that have both or none of the true fragment and the cue, (n,)."""
    return data.has(TRUE) == data.has(CUE)


def trained_with_cue(data: Labelled, setting: Setting) -> Any:
    """Return the parameters of a W2N2 with one task, trained where the cue tells the label."""
    labels = data.has(TRUE)[:, None]
    chosen = biased(data) & ~data.test
    return _train(data, labels, chosen, BIASED_EPOCHS, setting, "training, with a cue")


def _train(
    data: Labelled, labels: np.ndarray, chosen: np.ndarray, epochs: int, setting: Setting, text: str
) -> Any:
    few = [data.molecules[i] for i in np.flatnonzero(chosen)]
    examples = Examples(few, labels[chosen], np.ones_like(labels[chosen]))
    recipe = Recipe("W2N2", QUICK_EPOCHS if setting.quick else epochs, seed=setting.seed)
    return graph_training.train(recipe, examples, text=text, progress=setting.progress)
