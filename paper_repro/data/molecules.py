"""Molecules with measured affinities (MoleculeACE), and molecules as arrays of features.

RDKit reads the molecules. It comes with `pip install 'xattr-jax[molecules]'`, and it is imported
where a molecule is read.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from paper_repro.data.packages import DataError, Source, cache_dir, package_file, replacing
from paper_repro.report.progress import shown

ELEMENTS = ("C", "N", "O", "F", "S", "Cl", "Br", "I", "P", "B", "Si")
"""Atom types, the columns of `Molecule.atoms`; every other element shares one more column."""
BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
"""Bond types, the first columns of `Molecule.pairs`; a column for each distance from 2 follows."""
ACTIVE = -2.0
"""The least −log₁₀ of an affinity in nM that is active: below 100 nM."""
FORMAT = 1
"""Part of the names of cached files. Raise it when a change here changes the arrays."""


class Target(NamedTuple):
    """A protein of MoleculeACE: its name, its file, and the file's sha256."""

    name: str
    file: str
    sha256: str

    @property
    def source(self) -> Source:
        """The file in the wheel."""
        path = f"MoleculeACE/Data/benchmark_data/{self.file}"
        return Source("moleculeace", "3.0.0", path, self.sha256)


TARGETS = (
    Target(
        "thrombin",
        "CHEMBL204_Ki.csv",
        "6ccf17a5f1aa6322f2d68f24b923f2efb5779ff73d33035bb889bb922b18dba5",
    ),
    Target(
        "factor Xa",
        "CHEMBL244_Ki.csv",
        "aafc2e81810767397c8b5b3161b9eed3b33b6e9a827ed176336f388bef274a36",
    ),
    Target(
        "µ-opioid receptor",
        "CHEMBL233_Ki.csv",
        "4d8aff053b3d1c12e8cc13102958bb4f3dce4ac7715452265231e5b68d1c9362",
    ),
)


class Measured(NamedTuple):
    """The molecules of a target."""

    smiles: list[str]
    active: np.ndarray
    """Whether a molecule's affinity is below 100 nM, (n,) of bool."""
    test: np.ndarray
    """Whether the benchmark keeps the molecule for tests, (n,) of bool."""


class Molecule(NamedTuple):
    """A molecule of n atoms and m pairs of atoms as arrays, with the "simple" features.

    Kearnes et al. call an atom's type and a pair's bond type, or distance, simple.
    """

    atoms: np.ndarray
    """The type of each atom, one-hot, (n, 12)."""
    pairs: np.ndarray
    """The bond type of each pair, or its distance if there is no bond, one-hot, (m, 4 + …)."""
    ends: np.ndarray
    """The two atoms of each pair, the lower number first, (m, 2)."""


def load(target: Target, *, progress: bool = True) -> Measured:
    """Return the molecules of a target in the order of the file.

    Raises:
        DataError: if the file cannot be found or fetched, or is not the one expected.
    """
    text = package_file(target.source, progress=progress).read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    return Measured(
        [row["smiles"] for row in rows],
        np.array([float(row["y"]) > ACTIVE for row in rows]),
        np.array([row["split"] == "test" for row in rows]),
    )


def read(smiles: str) -> Any:
    """Return RDKit's molecule.

    Raises:
        DataError: if RDKit is not installed, or the text is not a molecule.
    """
    chem = _chem()
    with chem.rdBase.BlockLogs():
        found = chem.MolFromSmiles(smiles)
    if found is None:
        raise DataError(f"{smiles!r}: expected a molecule in SMILES, which RDKit can read")
    return found


def matches(smiles: str, pattern: str) -> list[tuple[int, ...]]:
    """Return the atoms of each place where a SMARTS pattern matches."""
    query = _chem().MolFromSmarts(pattern)
    if query is None:
        raise DataError(f"{pattern!r}: expected a pattern in SMARTS, which RDKit can read")
    return list(read(smiles).GetSubstructMatches(query, maxMatches=10_000))


def halogenated(smiles: str, halogen: str) -> list[str]:
    """Return the molecules that have a halogen in place of one aromatic hydrogen."""
    chem, start, found = _chem(), read(smiles), set()
    for (atom,) in matches(smiles, "[cH]"):
        changed = chem.RWMol(start)
        changed.AddBond(atom, changed.AddAtom(chem.Atom(halogen)), chem.BondType.SINGLE)
        chem.SanitizeMol(changed)
        found.add(chem.MolToSmiles(changed))
    return sorted(found)


def _chem() -> Any:
    try:
        from rdkit import Chem
    except ImportError as error:
        raise DataError(
            "RDKit reads molecules, and is not installed. "
            "To mend it: pip install 'xattr-jax[molecules]'"
        ) from error
    return Chem


def featurize(smiles: str, *, max_distance: int = 2) -> Molecule:
    """Return the arrays of a molecule; pairs are those at most `max_distance` bonds apart."""
    molecule = read(smiles)
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    types = [ELEMENTS.index(s) if s in ELEMENTS else len(ELEMENTS) for s in symbols]
    distances = np.rint(_chem().GetDistanceMatrix(molecule)).astype(np.int32)
    ends = np.argwhere(np.triu((distances > 0) & (distances <= max_distance))).astype(np.int32)
    kinds = [_kind(molecule, int(i), int(j), int(distances[i, j])) for i, j in ends]
    return Molecule(
        np.eye(len(ELEMENTS) + 1, dtype=np.float32)[types],
        np.eye(len(BONDS) + max_distance - 1, dtype=np.float32)[np.array(kinds, np.int32)],
        ends,
    )


def _kind(molecule: Any, i: int, j: int, distance: int) -> int:
    """Return the column of a pair: its bond type, or its distance."""
    bond = molecule.GetBondBetweenAtoms(i, j)
    if bond is None:
        return len(BONDS) + distance - 2
    name = str(bond.GetBondType())
    # Dative and other rare bonds count as single ones.
    return BONDS.index(name) if name in BONDS else 0


def featurized(
    smiles: Sequence[str], *, max_distance: int = 2, progress: bool = True
) -> list[Molecule]:
    """Return the arrays of many molecules: from the cache, or made and written there."""
    name = json.dumps([FORMAT, max_distance, ELEMENTS, BONDS, list(smiles)])
    path = cache_dir() / "molecules" / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.npz"
    if not path.exists():
        work = shown(smiles, "reading molecules", progress)
        _write([featurize(text, max_distance=max_distance) for text in work], path)
    return _read(path)


def _write(molecules: Iterable[Molecule], path: Any) -> None:
    """Write molecules one after the other, with the number of rows of each."""
    columns = dict(zip(Molecule._fields, zip(*molecules, strict=True), strict=True))
    values: dict[str, Any] = {}
    for name, arrays in columns.items():
        values |= {name: np.concatenate(arrays), f"{name}_rows": [len(each) for each in arrays]}
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **values)


def _read(path: Any) -> list[Molecule]:
    try:
        with path.open("rb") as file, np.load(file) as saved:
            split = [
                np.split(saved[name], np.cumsum(saved[f"{name}_rows"])[:-1])
                for name in Molecule._fields
            ]
    except Exception as error:  # a damaged file can raise any error
        raise DataError(
            f"{path}: expected molecules, found: {error!r}. To mend it: rm '{path}'"
        ) from error
    return [Molecule(*parts) for parts in zip(*split, strict=True)]
