"""Not an experiment: how well the networks of `ligand-screening` screen."""

from typing import Any

import numpy as np

from paper_repro.data.molecules import TARGETS
from paper_repro.experiments import screening_networks
from paper_repro.networks import weave
from paper_repro.networks.graph_training import auc

BAGS = ("bag of surroundings", "bag of atoms and pairs", "bag of atoms")
NETWORKS = ("W2N2", "W1N2", *BAGS)
STRIDE = 6
"""Of the training molecules every sixth is scored, which makes as many as there are for tests."""


def scores_of(name: str, screening: Any, params: Any) -> np.ndarray:
    """Return the logits of the molecules that test a target; 0 for the others."""
    tested = np.flatnonzero(screening.test.any(axis=1))
    found = np.zeros(screening.test.shape, np.float32)
    module = weave.network(name, len(TARGETS))
    taken = screening_networks.inputs(name, screening).molecules
    found[tested] = weave.logits(module, params, [taken[i] for i in tested])
    return found


def training_accuracy_of(name: str, screening: Any, params: Any) -> float:
    """Return the mean AUC of the targets on a part of the training molecules."""
    few = np.flatnonzero(~screening.test.any(axis=1))[::STRIDE]
    taken = screening_networks.inputs(name, screening).molecules
    scores = weave.logits(weave.network(name, len(TARGETS)), params, [taken[i] for i in few])
    known, active = screening.known[few], screening.active[few]
    areas = [auc(s[k], a[k]) for s, k, a in zip(scores.T, known.T, active.T, strict=True)]
    return float(np.nanmean(areas))


def accuracy_of(scores: np.ndarray, screening: Any, resamplings: int) -> dict[str, Any]:
    """Return the AUC of each target with a bootstrap interval: value, low, high."""
    found = {}
    for column, target in enumerate(TARGETS):
        rows = screening.test[:, column]
        values, labels = scores[rows, column], screening.active[rows, column]
        drawn = [auc(values[i], labels[i]) for i in _resampled(len(labels), resamplings)]
        found[target.name] = [auc(values, labels), *np.nanpercentile(drawn, [2.5, 97.5])]
    return found


def _resampled(count: int, times: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, count, (times, count))


def differences_of(scores: Any, screening: Any, resamplings: int) -> dict[str, Any]:
    """Return by how much a network's mean AUC is below that of W1N2, with an interval.

    The molecules are drawn again for all networks and targets together.
    """
    tested = np.flatnonzero(screening.test.any(axis=1))

    def mean(name: str, rows: np.ndarray) -> float:
        areas = []
        for column in range(len(TARGETS)):
            few = rows[screening.test[rows, column]]
            areas.append(auc(scores[name][few, column], screening.active[few, column]))
        return float(np.nanmean(areas))

    drawn = [tested, *(tested[i] for i in _resampled(len(tested), resamplings))]
    means = {name: np.array([mean(name, rows) for rows in drawn]) for name in NETWORKS}
    found = {}
    for name in ("W2N2", *BAGS):
        less = means["W1N2"] - means[name]
        found[name] = [less[0], *np.nanpercentile(less[1:], [2.5, 97.5])]
    return found
