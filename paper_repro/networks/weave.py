"""Weave networks on molecules (Kearnes et al. 2016), in flax, and the batches they take.

A molecule is a pytree of features, `{"atoms": (N, 12), "pairs": (M, 5)}`, which is what methods
attribute, and a `Graph` of whole numbers, which goes into `args`. Both are padded to a size class,
so that molecules of any size share one program per class. Padding never reaches the score.

IG, gradients, LRP and DeepLIFT have rules for all of it. Guided backpropagation and DeConvNet have
none for tanh; `on_uncovered="gradient"` takes its gradient.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from paper_repro.data.molecules import Molecule

Features: TypeAlias = dict[str, Any]
"""The attributed part of a molecule: "atoms" (N, atom types) and "pairs" (M, pair types)."""

STEP = 16
"""Size classes are multiples of this many atoms."""
PAIRS = 4
"""Pairs for each atom of a size class; molecules have 2.6 on average up to distance 2."""
SCALE = 1 / 32
"""Factor of sums over a molecule. Without it one step of Adam moves the dense layer by its size."""
BINS = np.array(
    [
        *((-1.645, 0.283), (-1.080, 0.170), (-0.739, 0.134), (-0.468, 0.118), (-0.228, 0.114)),
        (0.0, 0.114),
        *((0.228, 0.114), (0.468, 0.118), (0.739, 0.134), (1.080, 0.170), (1.645, 0.283)),
    ],
    np.float32,
)
"""Mean and deviation of each Gaussian of the histogram, as in DeepChem."""


class Graph(NamedTuple):
    """Where the features of a padded molecule belong."""

    ends: Any
    """The two atoms of each pair, (M, 2) of int32; 0 and 0 for padding."""
    atoms: Any
    """Whether an atom is not padding, (N,) of bool."""
    pairs: Any
    """Whether a pair is not padding, (M,) of bool."""


def size_class(molecule: Molecule) -> int:
    """Return the number of atoms to pad a molecule to; it is padded to four times as many pairs."""
    least = max(len(molecule.atoms), -(-len(molecule.pairs) // PAIRS))
    return -(-least // STEP) * STEP


def pad(molecule: Molecule, size: int | None = None) -> tuple[Features, Graph]:
    """Return the features and the graph of a molecule, padded to its size class or to `size`."""
    count = size_class(molecule) if size is None else size

    def rows(values: np.ndarray, number: int) -> np.ndarray:
        return np.pad(values, [(0, number - len(values)), (0, 0)])

    features = {
        "atoms": rows(molecule.atoms, count),
        "pairs": rows(molecule.pairs, PAIRS * count),
    }
    graph = Graph(
        rows(molecule.ends, PAIRS * count),
        np.arange(count) < len(molecule.atoms),
        np.arange(PAIRS * count) < len(molecule.pairs),
    )
    return features, graph


def by_size(molecules: Sequence[Molecule]) -> dict[int, np.ndarray]:
    """Return the places of the molecules of each size class."""
    sizes = np.array([size_class(molecule) for molecule in molecules])
    return {int(size): np.flatnonzero(sizes == size) for size in np.unique(sizes)}


def stacked(molecules: Sequence[Molecule], size: int) -> tuple[Features, Graph]:
    """Return molecules padded to one size, with an axis of examples in front of every array."""
    padded = [pad(molecule, size) for molecule in molecules]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *padded)


def ends_of(values: jax.Array, graph: Graph) -> tuple[jax.Array, jax.Array]:
    """Return the values of the first atom and of the second atom of each pair."""
    return values[graph.ends[:, 0]], values[graph.ends[:, 1]]


def sum_at_atoms(values: jax.Array, graph: Graph) -> jax.Array:
    """Sum the values of pairs at both of their atoms, (M, C) -> (N, C), without padding."""
    kept = jnp.where(graph.pairs[:, None], values, 0)
    atoms = len(graph.atoms)
    sums = [jax.ops.segment_sum(kept, graph.ends[:, end], atoms) for end in (0, 1)]
    return sums[0] + sums[1]


def histogram(values: jax.Array) -> jax.Array:
    """Return the share of each Gaussian in every value, (N, C) -> (N, 11 C).

    The Gaussians have height 1; their shares of a value sum to 1.
    """
    means, deviations = (jnp.asarray(column, values.dtype) for column in BINS.T)
    shape = (*values.shape, len(BINS))
    apart = jnp.broadcast_to(values[..., None], shape) - jnp.broadcast_to(means, shape)
    exponents = -0.5 * (apart / jnp.broadcast_to(deviations, shape)) ** 2
    return jax.nn.softmax(exponents).reshape(len(values), -1)


class Module(nn.Module):
    """A Weave module: atoms hear from their pairs, and pairs from their atoms.

    A' = ReLU(W [ReLU(A W_AA); Σ_j ReLU(P_ij W_PA)]), P' = ReLU(W' [AP_ij + AP_ji; ReLU(P W_PP)]),
    AP_ij = ReLU([A_i; A_j] W_AP), each with a bias.
    """

    width: int = 50
    update_pairs: bool = True

    @nn.compact
    def __call__(self, atoms: jax.Array, pairs: jax.Array, graph: Graph) -> Any:
        """Return the atoms (N, width), 0 at padding, and the pairs (M, width) if asked for."""
        dense = {
            name: nn.Dense(self.width, name=name)
            for name in ("AA", "PA", "A", *(("AP", "PP", "P") if self.update_pairs else ()))
        }
        heard = sum_at_atoms(nn.relu(dense["PA"](pairs)), graph)
        own = nn.relu(dense["AA"](atoms))
        new = nn.relu(dense["A"](jnp.concatenate([own, heard], axis=1)))
        new = jnp.where(graph.atoms[:, None], new, 0)
        if not self.update_pairs:
            return new, pairs
        first, second = ends_of(atoms, graph)
        both = [jnp.concatenate(each, axis=1) for each in ((first, second), (second, first))]
        between = nn.relu(dense["AP"](both[0])) + nn.relu(dense["AP"](both[1]))
        joined = jnp.concatenate([between, nn.relu(dense["PP"](pairs))], axis=1)
        return new, nn.relu(dense["P"](joined))


class Weave(nn.Module):
    """Weave modules, a histogram over the atoms, two dense layers, and a logit for each task.

    W2N2 has two modules, W1N2 has one; both take pairs up to distance 2. The values of the last
    module at the atoms have the name "weave", for methods that take a hidden layer.
    """

    modules: int = 2
    tasks: int = 1
    width: int = 50
    last: int = 128
    dense: tuple[int, ...] = (2000, 100)
    dropout: float = 0.25

    @nn.compact
    def __call__(self, features: Features, graph: Graph, *, train: bool = False) -> jax.Array:
        """Return the logits (tasks,) of one molecule."""
        atoms, pairs = features["atoms"], features["pairs"]
        for number in range(self.modules):
            module = Module(self.width, number + 1 < self.modules, name=f"module{number + 1}")
            atoms, pairs = module(atoms, pairs, graph)
        atoms = checkpoint_name(atoms, "weave")
        shares = histogram(nn.tanh(nn.Dense(self.last, name="last")(atoms)))
        hidden = SCALE * jnp.where(graph.atoms[:, None], shares, 0).sum(axis=0)
        return head(hidden, self.dense, self.tasks, self.dropout, train)


class Bag(nn.Module):
    """The same dense layers on scaled sums of the features: of the atoms, and perhaps the pairs."""

    tasks: int = 1
    pairs: bool = False
    dense: tuple[int, ...] = (2000, 100)
    dropout: float = 0.25

    @nn.compact
    def __call__(self, features: Features, graph: Graph, *, train: bool = False) -> jax.Array:
        """Return the logits (tasks,) of one molecule."""
        counts = [jnp.where(graph.atoms[:, None], features["atoms"], 0).sum(axis=0)]
        if self.pairs:
            counts.append(jnp.where(graph.pairs[:, None], features["pairs"], 0).sum(axis=0))
        return head(SCALE * jnp.concatenate(counts), self.dense, self.tasks, self.dropout, train)


def head(
    hidden: jax.Array, widths: Sequence[int], tasks: int, dropout: float, train: bool
) -> jax.Array:
    """Apply dense ReLU layers with dropout, and the output layer."""
    for number, width in enumerate(widths):
        hidden = nn.relu(nn.Dense(width, name=f"dense{number + 1}")(hidden))
        hidden = nn.Dropout(dropout, deterministic=not train, name=f"dropout{number + 1}")(hidden)
    return nn.Dense(tasks, name="output")(hidden)


NETWORKS: dict[str, Any] = {
    "W2N2": Weave(2),
    "W1N2": Weave(1),
    "bag of surroundings": Bag(),
    "bag of atoms and pairs": Bag(pairs=True),
    "bag of atoms": Bag(),
}


def network(name: str, tasks: int) -> Any:
    """Return one of `NETWORKS` with this many tasks."""
    return NETWORKS[name].clone(tasks=tasks)


def initialise(module: Any, molecule: Molecule, key: jax.Array) -> Any:
    """Return fresh parameters."""
    return jax.jit(module.init)(key, *pad(molecule))["params"]


@functools.cache
def model_of(module: Any) -> Any:
    """Return a network as `model(features, graph, params) -> logits (tasks,)`.

    The same network gives the same function, so that nothing is compiled twice.
    """

    def model(features: Features, graph: Graph, params: Any) -> jax.Array:
        return module.apply({"params": params}, features, graph)

    return model


@functools.cache
def score_of(module: Any, kind: str = "logit") -> Any:
    """Return `score(features, graph, task, params) -> scalar`, the logit of a task.

    Of kind "probability" it is 1 / (1 + exp(−logit)).
    """
    model = model_of(module)

    def score(features: Features, graph: Graph, task: Any, params: Any) -> jax.Array:
        logit = model(features, graph, params)[task]
        return jax.nn.sigmoid(logit) if kind == "probability" else logit

    return score


def logits(module: Any, params: Any, molecules: Sequence[Molecule], *, batch: int = 64) -> Any:
    """Return the logits of all molecules, (n, tasks)."""
    found = np.zeros((len(molecules), module.tasks), np.float32)
    for size, places in by_size(molecules).items():
        for chosen in _filled(places, batch):
            examples = stacked([molecules[i] for i in chosen], size)
            found[chosen] = _logits(model_of(module), *examples, params)
    return found


def _filled(places: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    """Yield batches of one length; the last repeats its first place to fill up."""
    for start in range(0, len(places), batch):
        part = places[start : start + batch]
        yield np.concatenate([part, np.repeat(part[:1], batch - len(part))])


@jax.jit(static_argnums=0)
def _logits(model: Any, features: Any, graph: Any, params: Any) -> jax.Array:
    return jax.vmap(model, (0, 0, None))(features, graph, params)
