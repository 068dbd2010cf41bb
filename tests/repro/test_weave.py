"""Networks on molecules: against dense oracles, and padding that receives nothing."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

import xattr
from paper_repro.data import molecules
from paper_repro.data.molecules import Molecule
from paper_repro.networks import message_passing, weave
from paper_repro.networks.message_passing import MessagePassing
from paper_repro.networks.weave import Bag, Weave
from xattr import composites, rules

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
SMALL = {"width": 5, "last": 4, "dense": (7, 6)}


def spread(values, molecule):
    """The rows of pairs as an N × N array, and which of its places have a pair."""
    count, rows = len(molecule.atoms), len(molecule.ends)
    places = np.full((count, count), rows)
    for number, (i, j) in enumerate(molecule.ends):
        places[i, j] = places[j, i] = number
    filled = jnp.concatenate([values[:rows], jnp.zeros((1, values.shape[1]))])
    return filled[places], (places < rows)[..., None]


def dense_weave(params, features, molecule, modules):
    """The network with an array of all N × N pairs, written from the paper's formulas."""
    count = len(molecule.atoms)
    atoms = features["atoms"][:count]
    pairs, joined = spread(features["pairs"], molecule)

    def layer(name, values):
        weights = params[name.split("/")[0]]
        for part in name.split("/")[1:]:
            weights = weights[part]
        products = values @ weights["kernel"]
        return products + jnp.broadcast_to(weights["bias"], products.shape)

    for number in range(1, modules + 1):
        relu = lambda name, values, number=number: jax.nn.relu(
            layer(f"module{number}/{name}", values)
        )
        heard = jnp.where(joined, relu("PA", pairs), 0).sum(axis=1)
        new = relu("A", jnp.concatenate([relu("AA", atoms), heard], axis=1))
        if number < modules:
            shape = (count, count, atoms.shape[1])
            rows = jnp.broadcast_to(atoms[:, None], shape)
            columns = jnp.broadcast_to(atoms[None], shape)
            between = [jnp.concatenate(each, -1) for each in ((rows, columns), (columns, rows))]
            both = relu("AP", between[0]) + relu("AP", between[1])
            pairs = relu("P", jnp.concatenate([both, relu("PP", pairs)], axis=-1))
        atoms = new
    values = jnp.tanh(layer("last", atoms))
    # Not written otherwise: LRP knows a softmax, and not the same shares written as exponentials.
    hidden = weave.histogram(values).sum(axis=0) / 32
    for name in ("dense1", "dense2"):
        hidden = jax.nn.relu(layer(name, hidden))
    return layer("output", hidden)[0]


def example(modules=2, seed=0, smiles=ASPIRIN):
    """A network in float64 with biases, a molecule, and padded arrays of it."""
    molecule = molecules.featurize(smiles)
    module = Weave(modules, **SMALL)
    params = weave.initialise(module, molecule, jax.random.key(seed))
    random = np.random.default_rng(seed)
    # Biases start at 0, where masks could be left out without a difference.
    params = jax.tree.map(lambda w: np.asarray(w) + 0.2 * random.standard_normal(w.shape), params)
    features, graph = weave.pad(molecule)
    return module, params, molecule, jax.tree.map(np.float64, features), graph


METHODS = {
    "gradient": xattr.gradient,
    "integrated gradients": functools.partial(xattr.integrated_gradients, warn_above=None),
    "lrp": xattr.lrp,
    "lrp, zero": functools.partial(xattr.lrp, composite=composites.every_layer(rules.zero())),
    "lrp, z plus": functools.partial(xattr.lrp, composite=composites.every_layer(rules.z_plus())),
    "lrp, with biases": functools.partial(xattr.lrp, bias="include"),
    "deep_lift": xattr.deep_lift,
}
GUIDED = {"guided_backprop": functools.partial(xattr.guided_backprop, on_uncovered="gradient")}
"""Only for directed edges: where a pair has one ReLU for both of its atoms, N × N arrays have two,
and guided backpropagation of equal functions is not equal."""


@pytest.mark.parametrize("name", METHODS)
def test_gathers_and_segment_sums_are_those_of_dense_arrays(name, x64):
    """One network over a list of pairs, another over N × N arrays without sums of segments."""
    module, params, molecule, features, graph = example()
    sparse = lambda x: weave.score_of(module)(x, graph, 0, params)
    dense = lambda x: dense_weave(params, x, molecule, 2)
    np.testing.assert_allclose(sparse(features), dense(features), rtol=1e-9)
    found, expected = (METHODS[name](f, features) for f in (sparse, dense))
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    assert scale > 1e-4
    for leaf in ("atoms", "pairs"):
        np.testing.assert_allclose(found[leaf], expected[leaf], rtol=0, atol=1e-9 * scale)


def test_deep_lift_and_integrated_gradients_are_complete(x64):
    module, params, _, features, graph = example()
    f, args = weave.score_of(module), (graph, 0, params)
    change = f(features, *args) - f(jax.tree.map(np.zeros_like, features), *args)
    found = xattr.deep_lift(f, features, args=args)
    np.testing.assert_allclose(sum(leaf.sum() for leaf in found.values()), change, rtol=1e-9)
    nodes = xattr.quadrature.composite(xattr.quadrature.gauss_legendre(8), 64)
    found = xattr.integrated_gradients(f, features, args=args, quadrature=nodes)
    size = sum(np.abs(leaf).sum() for leaf in found.values())
    np.testing.assert_allclose(
        sum(leaf.sum() for leaf in found.values()), change, rtol=0, atol=1e-3 * size
    )


def test_guided_backprop_says_what_has_no_rule():
    module, params, _, features, graph = example()
    with pytest.raises(xattr.UncoveredPrimitiveError, match="no rule covers tanh"):
        xattr.guided_backprop(
            weave.score_of(module), jax.tree.map(jnp.float32, features), args=(graph, 0, params)
        )


def _presence(module, features, graph, params):
    """Whether atoms are there, as features: pairs need both of their atoms."""

    def f(there, features, graph, params):
        first, second = there[graph.ends[:, 0]], there[graph.ends[:, 1]]
        kept = {
            "atoms": features["atoms"] * there[:, None],
            "pairs": features["pairs"] * (first * second)[:, None],
        }
        return weave.score_of(module)(kept, graph, 0, params)

    return f, (features, graph, params)


@hypothesis.settings(max_examples=4)
@hypothesis.given(
    smiles=strategies.sampled_from([ASPIRIN, "C#N", "ClCC(F)(F)Br", "[Na+].[Cl-]", "C"]),
    modules=strategies.sampled_from([1, 2]),
    seed=strategies.integers(0, 2**16),
)
def test_padding_never_receives_attribution(smiles, modules, seed):
    module, params, _, features, graph = example(modules, seed, smiles)
    features, params = jax.tree.map(jnp.float32, (features, params))
    f, args = weave.score_of(module), (graph, 0, params)
    key = jax.random.key(seed)
    full = jax.tree.map(jnp.ones_like, features)  # also where a path goes beside padding
    found = {name: method(f, features, args=args) for name, method in (METHODS | GUIDED).items()}
    found["gradient elsewhere"] = xattr.gradient(f, full, args=args)
    found["smooth grad"] = xattr.smooth_grad(
        f, features, key, num_samples=2, noise_scale=0.1, args=args
    )
    cam = xattr.grad_cam(f, features, layer="weave", args=args, upsample=False, spatial_axes=1)
    of_atoms, more = _presence(module, features, graph, params)
    there = jnp.ones(len(graph.atoms))
    one = {
        "Grad-CAM": cam,
        "ablation": xattr.ablation(of_atoms, there, args=more),
        "Shapley": xattr.shapley_sampling(
            of_atoms, there, None, key, num_permutations=2, args=more
        ).attributions,
    }
    for name, values in found.items():
        for leaf, real in (("atoms", graph.atoms), ("pairs", graph.pairs)):
            assert np.all(np.asarray(values[leaf])[~real] == 0), name
    for name, values in one.items():
        assert np.all(np.asarray(values)[~graph.atoms] == 0), name
    assert np.any(np.asarray(found["gradient"]["atoms"])[graph.atoms] != 0)


@pytest.mark.parametrize(
    "module", [Weave(2, **SMALL), Weave(1, **SMALL), Bag(dense=(5,)), Bag(pairs=True, dense=(5,))]
)
def test_the_size_of_the_padding_changes_nothing(module, x64):
    molecule = molecules.featurize(ASPIRIN)
    params = weave.initialise(module, molecule, jax.random.key(0))
    params = jax.tree.map(lambda w: np.asarray(w, np.float64) + 0.1, params)
    model = weave.model_of(module)
    padded = [weave.pad(molecule, size) for size in (13, 16, 48)]
    scores = [model(jax.tree.map(np.float64, x), graph, params) for x, graph in padded]
    np.testing.assert_allclose(scores[1:], [scores[0]] * 2, rtol=1e-12)


def test_molecules_of_a_class_share_one_program():
    module = Weave(1, **SMALL)
    smiles = ["C" * n + end for n in (3, 9, 15, 20, 31) for end in ("O", "N")]
    many = [molecules.featurize(text) for text in smiles]
    params = weave.initialise(module, many[0], jax.random.key(0))

    @jax.jit
    def map_of(features, graph, params):
        return xattr.gradient(weave.score_of(module), features, args=(graph, 0, params))

    with xattr.testing.count_compilations() as counts:
        for molecule in many:
            map_of(*weave.pad(molecule), params)
    assert {weave.size_class(m) for m in many} == {16, 32}
    assert counts["map_of"] == 2


def test_size_classes_by_hand():
    pairs, ends = np.zeros((65, 5), np.float32), np.zeros((65, 2), np.int32)
    atoms = np.zeros((16, 12), np.float32)
    assert weave.size_class(Molecule(atoms, pairs[:64], ends[:64])) == 16
    assert weave.size_class(Molecule(atoms, pairs, ends)) == 32  # more than 4 pairs for each atom
    assert weave.size_class(Molecule(atoms[:1], pairs[:0], ends[:0])) == 16


def test_histogram_by_hand(x64):
    """At 0 the middle Gaussian and its neighbours at ±.228 have e^0 and e^−2."""
    found = np.asarray(weave.histogram(jnp.zeros((1, 1))))[0]
    middle, beside = 1.0, np.exp(-0.5 * (0.228 / 0.114) ** 2)
    others = sum(2 * np.exp(-0.5 * (m / d) ** 2) for m, d in weave.BINS[7:].astype(float))
    np.testing.assert_allclose(
        found[4:7], np.array([beside, middle, beside]) / (1 + 2 * beside + others), rtol=1e-6
    )
    np.testing.assert_allclose(found.sum(), 1)


def test_logits_of_a_batch_are_those_of_one_molecule():
    module = Weave(2, tasks=3, **SMALL)
    many = [molecules.featurize("C" * n) for n in (1, 5, 20)]
    params = weave.initialise(module, many[0], jax.random.key(1))
    one = [weave.model_of(module)(*weave.pad(m), params) for m in many]
    np.testing.assert_allclose(weave.logits(module, params, many, batch=2), one, rtol=1e-5)
    assert np.shape(one) == (3, 3)


def dense_messages(params, nodes, edges, molecule):
    """Message passing for one molecule with N × N arrays, without sums of segments."""
    count = len(molecule.atoms)
    wide, joined = spread(edges, molecule)

    def relu(name, values):
        products = values @ params[name]["kernel"]
        return jax.nn.relu(products + jnp.broadcast_to(params[name]["bias"], products.shape))

    for number in (1, 2):
        shape = (count, count, nodes.shape[1])
        senders = jnp.broadcast_to(nodes[:, None], shape)
        receivers = jnp.broadcast_to(nodes[None], shape)
        messages = relu(f"message{number}", jnp.concatenate([senders, receivers, wide], -1))
        heard = jnp.where(joined, messages, 0).sum(axis=0)
        nodes = relu(f"node{number}", jnp.concatenate([nodes, heard], axis=1))
    hidden = relu("dense", nodes.sum(axis=0))
    return hidden @ params["output"]["kernel"][:, 0] + params["output"]["bias"][0]


@pytest.mark.parametrize("name", METHODS | GUIDED)
def test_message_passing_is_that_of_dense_arrays(name, x64):
    """Two molecules and padding in one set of arrays; each graph is explained alone."""
    many = [molecules.featurize(text) for text in (ASPIRIN, "CC#N")]
    features, wiring = message_passing.batched(many, nodes=20, edges=96)
    module = MessagePassing(width=6, graphs=2)
    params = module.init(jax.random.key(0), features, wiring)["params"]
    features = jax.tree.map(np.float64, features)
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda w: np.asarray(w) + 0.2 * random.standard_normal(w.shape), params)
    start = 0
    half = sum(len(m.ends) for m in many)
    for number, molecule in enumerate(many):
        atoms = slice(start, start + len(molecule.atoms))
        start = atoms.stop
        first = sum(len(m.ends) for m in many[:number])
        rows = slice(first, first + len(molecule.ends))

        def sparse(x, number=number):
            both = jnp.concatenate([x["pairs"], x["pairs"], features["edges"][2 * half :]])
            return module.apply({"params": params}, {"nodes": x["nodes"], "edges": both}, wiring)[
                number, 0
            ]

        def dense(x, molecule=molecule, atoms=atoms, rows=rows):
            return dense_messages(params, x["nodes"][atoms], x["pairs"][rows], molecule)

        x = {"nodes": features["nodes"], "pairs": features["edges"][:half]}
        np.testing.assert_allclose(sparse(x), dense(x), rtol=1e-9)
        found, expected = ((METHODS | GUIDED)[name](f, x) for f in (sparse, dense))
        for leaf in found:
            assert np.abs(expected[leaf]).max() > 1e-6
            np.testing.assert_allclose(found[leaf], expected[leaf], rtol=0, atol=1e-9)
        beside = np.ones(len(features["nodes"]), bool)
        beside[atoms] = False
        assert np.all(np.asarray(found["nodes"])[beside] == 0)


def test_a_batch_that_does_not_fit():
    with pytest.raises(ValueError, match="`nodes` must be more than 3 and `edges` at least 6"):
        message_passing.batched([molecules.featurize("CCC")], nodes=3, edges=6)
