"""Not an experiment: the networks that `ligand-screening` and `dead-features` explain."""

from typing import Any, NamedTuple

import numpy as np

from paper_repro.data import molecules
from paper_repro.data.molecules import TARGETS, Molecule
from paper_repro.experiments import atom_colours
from paper_repro.networks import graph_training, weave
from paper_repro.networks.graph_training import Examples, Recipe
from paper_repro.report.results import Setting

LARGEST = 64
"""The largest size class, in atoms. Two molecules of a hundred are larger, most of them peptides.
"""
EPOCHS = 20
SURROUNDINGS = "bag of surroundings"
COMMON = 255
"""How many surroundings have a column of their own."""
QUICK_SIZE, QUICK_MOLECULES, QUICK_EPOCHS = 32, 320, 2


class Screening(NamedTuple):
    """The molecules of three targets, and what is known of them."""

    smiles: list[str]
    molecules: list[Molecule]
    active: np.ndarray
    """Whether the affinity is below 100 nM, (n, 3); False where it is not known."""
    known: np.ndarray
    """Whether the affinity is known, (n, 3)."""
    test: np.ndarray
    """Whether the benchmark tests the target with the molecule, (n, 3)."""
    left_out: int
    """How many molecules are too large."""

    def rows(self, chosen: np.ndarray) -> Examples:
        """Return some molecules with their labels."""
        few = [self.molecules[i] for i in np.flatnonzero(chosen)]
        return Examples(few, self.active[chosen], self.known[chosen])


def load(setting: Setting) -> Screening:
    """Return the molecules of the three targets; with `--quick` a few hundred small ones."""
    measured = [molecules.load(target, progress=setting.progress) for target in TARGETS]
    smiles = sorted({text for target in measured for text in target.smiles})
    if setting.quick:
        smiles = smiles[:: len(smiles) // QUICK_MOLECULES]
    arrays = molecules.featurized(smiles, progress=setting.progress)
    sizes = np.array([weave.size_class(each) for each in arrays])
    # One size class is one program to compile.
    kept = np.flatnonzero(sizes == QUICK_SIZE if setting.quick else sizes <= LARGEST).tolist()
    row = {smiles[i]: number for number, i in enumerate(kept)}
    tables = np.zeros((3, len(kept), len(TARGETS)), bool)
    for column, target in enumerate(measured):
        for text, *facts in zip(target.smiles, target.active, target.test, strict=True):
            if text in row:
                tables[:, row[text], column] = (facts[0], True, facts[1])
    active, known, test = tables
    texts, arrays = [smiles[i] for i in kept], [arrays[i] for i in kept]
    return Screening(texts, arrays, active, known, test, len(smiles) - len(kept))


def inputs(name: str, screening: Screening) -> Screening:
    """Return the molecules as a network takes them: one bag counts surroundings, not types."""
    if name != SURROUNDINGS:
        return screening
    known = screening.rows(np.logical_not(np.any(screening.test, axis=1))).molecules
    found = atom_colours.surroundings(screening.molecules, known, COMMON)
    return screening._replace(molecules=found)


def trained(name: str, screening: Screening, setting: Setting) -> Any:
    """Return the parameters of a network, trained on the molecules that test no target."""
    recipe = Recipe(name, QUICK_EPOCHS if setting.quick else EPOCHS, seed=setting.seed)
    untested = np.logical_not(np.any(screening.test, axis=1))
    examples = inputs(name, screening).rows(untested)
    return graph_training.train(recipe, examples, progress=setting.progress)
