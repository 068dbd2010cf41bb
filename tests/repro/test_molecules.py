"""Molecules as arrays, by hand, from the cache, and the errors on the way."""

import hashlib
import sys

import numpy as np
import pytest

from paper_repro.data import molecules
from paper_repro.data.packages import DataError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XATTR_CACHE", str(tmp_path))
    return tmp_path


def test_features_by_hand():
    """Acetonitrile with fluorine, FCC#N: three bonds, and two pairs at distance 2."""
    found = molecules.featurize("FCC#N")
    assert [molecules.ELEMENTS[i] for i in found.atoms.argmax(1)] == ["F", "C", "C", "N"]
    assert found.ends.tolist() == [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]]
    names = [*molecules.BONDS, "distance 2"]
    assert [names[i] for i in found.pairs.argmax(1)] == [
        *("SINGLE", "distance 2", "SINGLE", "distance 2", "TRIPLE")
    ]
    assert (found.atoms.sum(1) == 1).all()
    assert (found.pairs.sum(1) == 1).all()
    far = molecules.featurize("FCC#N", max_distance=3)
    assert far.ends.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert far.pairs.shape == (6, 6)
    assert far.pairs[2].argmax() == 5


def test_unusual_molecules():
    assert molecules.featurize("c1ccccc1").pairs[:, 3].sum() == 6  # aromatic bonds
    salt = molecules.featurize("[Na+].[Cl-]")
    assert salt.ends.shape == (0, 2)
    assert salt.atoms.argmax(1).tolist() == [len(molecules.ELEMENTS), 5]
    assert molecules.featurize("C").pairs.shape == (0, 5)


def test_patterns_match_where_they_should():
    assert molecules.matches("OCC(=O)O", "[CX4][OX2H]") == [(1, 0)]
    assert molecules.matches("CCC", "[OX2H]") == []


def test_the_cache_gives_what_was_made(cache):
    smiles = ["FCC#N", "C", "c1ccccc1O"]
    made, read = (molecules.featurized(smiles, progress=False) for _ in range(2))
    assert len([*(cache / "molecules").iterdir()]) == 1
    for one, other, text in zip(made, read, smiles, strict=True):
        for a, b, c in zip(one, other, molecules.featurize(text), strict=True):
            assert a.dtype == b.dtype == c.dtype
            np.testing.assert_array_equal(a, c)
            np.testing.assert_array_equal(b, c)
    (file,) = (cache / "molecules").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"expected molecules, found: .* To mend it: rm "):
        molecules.featurized(smiles, progress=False)


def test_another_distance_is_another_file(cache):
    for distance in (2, 3):
        molecules.featurized(["CCCC"], max_distance=distance, progress=False)
    assert len([*(cache / "molecules").iterdir()]) == 2


def test_the_affinities_of_thrombin():
    found = molecules.load(molecules.TARGETS[0], progress=False)
    assert len(found.smiles) == 2754
    assert found.test.sum() == 553
    assert found.active.mean() == pytest.approx(0.431, abs=5e-4)
    # The first row has 2,670 nM.
    assert found.smiles[0].startswith("CC(=N)N1CCC(Oc2ccc3nc(CCC(=O)O)")
    assert not found.active[0]
    assert found.test[0]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: molecules.read("C(("), "expected a molecule in SMILES"),
        (lambda: molecules.matches("C", "[C"), "expected a pattern in SMARTS"),
    ],
)
def test_bad_texts(call, text):
    with pytest.raises(DataError, match=text):
        call()


def test_without_rdkit(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(DataError, match=r"pip install 'xattr-jax\[molecules\]'"):
        molecules.read("C")


def test_every_target_names_its_file():
    assert all(
        len(bytes.fromhex(t.sha256)) == hashlib.sha256().digest_size for t in molecules.TARGETS
    )


def test_a_halogen_in_place_of_each_aromatic_hydrogen():
    """Toluene has three kinds of them, and phenol with a methyl group none twice."""
    found = molecules.halogenated("Cc1ccccc1", "Cl")
    assert found == sorted(["Cc1ccccc1Cl", "Cc1cccc(Cl)c1", "Cc1ccc(Cl)cc1"])
    assert molecules.halogenated("CCO", "Cl") == []
