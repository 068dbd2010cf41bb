"""Not an experiment: what the atoms of a molecule look like to networks of one and two modules."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from paper_repro.data.molecules import BONDS, Molecule


class Colours(NamedTuple):
    """What the atoms of a molecule look like, from the least to the most that is looked at."""

    bonds: list[Any]
    pairs: list[Any]
    rounds: list[Any]


def colours(molecule: Molecule) -> Colours:
    """Return what each atom looks like to the paper, to one module, and to two.

    One module adds up the pairs of an atom; it sees its type and the multiset of its pairs. With
    two modules the gradient at an atom also depends on its neighbours' pairs and neighbours: two
    rounds of colour refinement.
    """
    types = molecule.atoms.argmax(axis=1).tolist()
    around: list[list[tuple[int, int]]] = [[] for _ in types]
    for kind, (i, j) in zip(molecule.pairs.argmax(axis=1).tolist(), molecule.ends, strict=True):
        around[i].append((kind, int(j)))
        around[j].append((kind, int(i)))
    bonds = [
        (t, *sorted(kind for kind, _ in near if kind < len(BONDS)))
        for t, near in zip(types, around, strict=True)
    ]
    pairs = [(t, *sorted(kind for kind, _ in near)) for t, near in zip(types, around, strict=True)]
    rounds: list[Any] = list(types)
    for _ in range(2):
        rounds = [
            (own, tuple(sorted((kind, rounds[j]) for kind, j in near)))
            for own, near in zip(rounds, around, strict=True)
        ]
    return Colours(bonds, pairs, rounds)


def surroundings(
    molecules: Sequence[Molecule], known: Sequence[Molecule], most: int
) -> list[Molecule]:
    """Return molecules whose atom types say what one module sees of an atom: its type and pairs.

    The `most` common ones of the molecules `known` have a column each; the others share one more.
    """
    counts = Counter(colour for each in known for colour in colours(each).pairs)
    column = {colour: i for i, (colour, _) in enumerate(counts.most_common(most))}
    rows = np.eye(most + 1, dtype=np.float32)
    return [
        each._replace(atoms=rows[[column.get(colour, most) for colour in colours(each).pairs]])
        for each in molecules
    ]
