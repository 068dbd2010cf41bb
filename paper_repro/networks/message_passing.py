"""Message passing with segment sums, the form that graph networks in JAX commonly have.

The arrays are those of jraph's `GraphsTuple`, so that a network and its data carry over: nodes
(N, F) and edges (E, G) are attributed, and `Wiring` goes into `args`.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from paper_repro.data.molecules import Molecule


class Wiring(NamedTuple):
    """Which nodes an edge joins, and which graph a node belongs to."""

    senders: Any
    """(E,) of int32. An edge of padding joins the last node of padding to itself."""
    receivers: Any
    """(E,) of int32."""
    graph_of_node: Any
    """(N,) of int32. The nodes of padding belong to a graph after the others."""


class MessagePassing(nn.Module):
    """Rounds in which a node takes the sum of messages from its edges, then a sum over the nodes.

    m_e = ReLU([h_s; h_r; e] W), h_v ← ReLU([h_v; Σ_{e into v} m_e] U); the logit of a graph is
    dense layers of the sum over its nodes.
    """

    rounds: int = 2
    width: int = 32
    graphs: int = 1
    tasks: int = 1

    @nn.compact
    def __call__(self, features: dict[str, Any], wiring: Wiring) -> jax.Array:
        """Return the logits (graphs, tasks)."""
        hidden, edges = features["nodes"], features["edges"]
        for number in range(1, self.rounds + 1):
            ends = (hidden[wiring.senders], hidden[wiring.receivers], edges)
            joined = jnp.concatenate(ends, axis=1)
            messages = nn.relu(nn.Dense(self.width, name=f"message{number}")(joined))
            heard = jax.ops.segment_sum(messages, wiring.receivers, len(hidden))
            joined = jnp.concatenate([hidden, heard], axis=1)
            hidden = nn.relu(nn.Dense(self.width, name=f"node{number}")(joined))
        # One more segment takes the padding, and is left out.
        sums = jax.ops.segment_sum(hidden, wiring.graph_of_node, self.graphs + 1)
        sums = nn.relu(nn.Dense(self.width, name="dense")(sums[: self.graphs]))
        return nn.Dense(self.tasks, name="output")(sums)


def batched(
    molecules: list[Molecule], nodes: int, edges: int
) -> tuple[dict[str, np.ndarray], Wiring]:
    """Return molecules side by side in one set of arrays, with an edge in both directions.

    Raises:
        ValueError: if they do not fit into `nodes`, one of which is padding, and `edges`.
    """
    counts = [len(molecule.atoms) for molecule in molecules]
    starts = np.cumsum([0, *counts])
    ends = np.concatenate([m.ends + start for m, start in zip(molecules, starts, strict=False)])
    kinds = np.concatenate([molecule.pairs for molecule in molecules])
    if starts[-1] >= nodes or 2 * len(ends) > edges:
        raise ValueError(
            f"`nodes` must be more than {starts[-1]} and `edges` at least {2 * len(ends)}, not "
            f"{nodes} and {edges}"
        )
    atoms = np.concatenate([molecule.atoms for molecule in molecules])
    spare = (edges - 2 * len(ends), nodes - len(atoms))
    features = {
        "nodes": np.pad(atoms, [(0, spare[1]), (0, 0)]),
        "edges": np.pad(np.concatenate([kinds, kinds]), [(0, spare[0]), (0, 0)]),
    }
    wired = [np.concatenate([ends[:, i], ends[:, 1 - i]]) for i in (0, 1)]
    senders, receivers = (np.pad(w, (0, spare[0]), constant_values=nodes - 1) for w in wired)
    owners = np.repeat(np.arange(len(molecules), dtype=np.int32), counts)
    of_node = np.pad(owners, (0, spare[1]), constant_values=len(molecules))
    return features, Wiring(senders, receivers, of_node)
