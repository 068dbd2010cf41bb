"""Pieces of the experiments on molecules, by hand."""

import jax
import numpy as np
import pytest

from paper_repro.data import molecules
from paper_repro.data.packages import DataError
from paper_repro.experiments import (
    atom_colours,
    binding_logic,
    binding_logics,
    dead_features,
    ligand_screening,
)
from paper_repro.experiments.binding_logics import Labelled, Logic
from paper_repro.networks import graph_training, weave
from paper_repro.networks.graph_training import Examples, Recipe


def test_area_under_the_curve_by_hand():
    """Of four pairs of a 1 and a 0, two are in order and one is a tie."""
    assert graph_training.auc(np.array([3.0, 1.0, 1.0, 2.0]), np.array([1, 1, 0, 0])) == 2.5 / 4
    assert graph_training.auc(np.array([1.0, 2.0]), np.array([0, 1])) == 1
    assert np.isnan(graph_training.auc(np.array([1.0, 2.0]), np.array([1, 1])))


def test_area_is_that_of_all_pairs():
    random = np.random.default_rng(0)
    scores, labels = random.integers(0, 9, 60), random.random(60) < 0.4
    ones, zeros = scores[labels], scores[~labels]
    pairs = [(a > b) + (a == b) / 2 for a in ones for b in zeros]
    assert graph_training.auc(scores, labels) == pytest.approx(np.mean(pairs))


def test_colours_of_the_chain():
    """FACTS: C2 differs from C3 = C5 = C6 by one atom at distance 2 where distance is a feature."""
    kinds = dead_features.colours(molecules.featurize(dead_features.CHAIN))
    bonds, pairs, rounds = kinds
    assert len({bonds[i] for i in (1, 2, 4, 5)}) == 1
    assert pairs[2] == pairs[4] == pairs[5] != pairs[1]
    assert pairs[0] == pairs[7]
    assert len(set(rounds)) == len(rounds)


def test_symmetric_atoms_look_alike_after_any_rounds():
    kinds = dead_features.colours(molecules.featurize("Cc1ccc(C)cc1"))
    assert kinds.rounds[0] == kinds.rounds[5]
    assert len(set(kinds.rounds)) == 3


@pytest.mark.parametrize(("name", "expected"), [("W1N2", True), ("W2N2", False)])
def test_dead_features_of_random_weights(name, expected):
    molecule = molecules.featurize(dead_features.CHAIN)
    module = weave.NETWORKS[name].clone(tasks=3, width=8, last=6, dense=(9, 7))
    params = weave.initialise(module, molecule, jax.random.key(1))
    params = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
    found = dead_features._atoms((module, params), molecule)
    close = 1e-6 * np.abs(found).max()
    assert (np.ptp(found[[2, 4, 5]]) < close) is np.bool_(expected)
    assert np.abs(found[1] - found[2]) > 1e-3 * np.abs(found).max()


def test_groups_leave_out_symmetric_atoms():
    molecule = molecules.featurize("Cc1ccc(C)cc1")
    found = np.array([1.0, 5, 3, 3, 5, 1, 3, 3])
    assert dead_features._groups(found, molecule) == []
    assert dead_features._groups(np.ones(8), molecule) == [{"atoms": [*range(8)], "value": 1}]


def test_truth_of_a_logic():
    """Chlorobenzene with an alcohol, and one without chlorine."""
    smiles = ["OCc1ccc(Cl)cc1", "OCc1ccccc1"]
    data = Labelled(
        smiles,
        [molecules.featurize(text) for text in smiles],
        [binding_logics.fragments(text) for text in smiles],
        np.array([True, False]),
    )
    logic = Logic(("alcohol", "benzene"), ("chlorine",))
    assert logic.name == "alcohol ∧ benzene ∧ ¬chlorine"
    assert data.binds(logic).tolist() == [False, True]
    assert data.binds(Logic(("alcohol",))).tolist() == [True, True]
    assert np.flatnonzero(data.truth(1, Logic(("alcohol",)))).tolist() == [0, 1]
    assert data.truth(1, logic).all()


def test_presence_leaves_out_an_atom_with_its_pairs():
    from paper_repro.experiments.atom_methods import presence

    features, graph = weave.pad(molecules.featurize("FCC#N"))
    there = np.ones(len(graph.atoms), np.float32)
    there[1] = 0
    kept = {}
    presence(lambda x, *args: kept.update(x) or 0.0, there, features, graph, 0, None)
    assert np.flatnonzero(kept["atoms"].sum(axis=1)).tolist() == [0, 2, 3]
    ends = graph.ends[np.asarray(kept["pairs"]).any(axis=1)].tolist()
    assert ends == [[0, 2], [2, 3]]


def test_shares_and_matrix_by_hand():
    molecule = molecules.featurize("FCC#N")
    maps = ligand_screening.Maps(np.array([1.0, 1, 1, 1]), np.array([2.0, 1, 2, -1, 2]), 10.0)
    assert ligand_screening._shares(maps, molecule) == pytest.approx([0.4, 0.6, 0.0])
    found = ligand_screening.matrix(maps, molecule)
    np.testing.assert_array_equal(found, found.T)
    assert found[0].tolist() == [1, 2, 1, 0]


def test_molecules_at_equal_distances():
    assert binding_logic._spread([5, 6, 7, 8, 9], 3) == [5, 7, 9]
    assert binding_logic._spread([5, 6], 3) == [5, 6]
    assert binding_logic._spread([], 3) == []


def examples():
    """Ten alcohols and ten fluorides."""
    smiles = ["C" * n + "O" for n in range(1, 11)] + ["C" * n + "F" for n in range(1, 11)]
    labels = np.repeat([[1, 0], [0, 1]], 10, axis=0)
    return Examples([molecules.featurize(s) for s in smiles], labels, np.ones((20, 2), bool))


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small network and an empty cache, with the dtype promotion optax needs."""
    monkeypatch.setenv("XATTR_CACHE", str(tmp_path))
    monkeypatch.setitem(weave.NETWORKS, "small", weave.Bag(pairs=True, dense=(16,), dropout=0.0))
    with jax.numpy_dtype_promotion("standard"):
        yield tmp_path


def test_training_learns_is_cached_and_repeats(small):
    recipe = Recipe("small", 60, batch=8, rate=1e-2)
    params = graph_training.train(recipe, examples(), progress=False)
    (file,) = (small / "trained").iterdir()
    again = graph_training.train(recipe, examples(), progress=False)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    scores = weave.logits(weave.network("small", 2), params, examples().molecules)
    assert [graph_training.auc(scores[:, i], examples().labels[:, i]) for i in (0, 1)] == [1, 1]
    file.write_bytes(b"no network")
    with pytest.raises(DataError, match=r"expected a trained network, found: .* To mend it: rm "):
        graph_training.train(recipe, examples(), progress=False)


def test_unknown_labels_teach_nothing(small):
    recipe = Recipe("small", 2, batch=8, decay=0.0)
    known = np.ones((20, 2), bool)
    known[:, 1] = False
    one, other = (
        graph_training.train(
            recipe,
            examples()._replace(
                labels=np.column_stack([examples().labels[:, 0], second]), known=known
            ),
            progress=False,
        )
        for second in (np.zeros(20), np.ones(20))
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_another_label_or_recipe_is_another_file(small):
    recipes = [Recipe("small", 1), Recipe("small", 1, seed=1)]
    hashes = {graph_training._hash(recipe, examples()) for recipe in recipes}
    flipped = examples()._replace(labels=1 - examples().labels)
    assert len(hashes | {graph_training._hash(recipes[0], flipped)}) == 3


def test_surroundings_by_hand():
    """Propane's ends look alike; a column that is not known is the last."""
    known = [molecules.featurize("CCC"), molecules.featurize("CCC")]
    found = atom_colours.surroundings([*known[:1], molecules.featurize("CO")], known, 2)
    assert found[0].atoms.argmax(axis=1).tolist() == [0, 1, 0]
    assert found[1].atoms.argmax(axis=1).tolist() == [2, 2]
    assert found[0].pairs is known[0].pairs
