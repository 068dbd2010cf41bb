"""Not an experiment: methods that score the atoms of a molecule, for `binding-logic`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import xattr
from paper_repro.networks import weave


class Size(NamedTuple):
    """How much is measured: molecules of each logic, nodes of IG, samples, random orders."""

    molecules: int
    nodes: int
    samples: int
    orders: int


Method = Callable[..., Any]


def _on_features(method: Method) -> Method:
    """Return a method that gives each atom its own attribution and half of its pairs'."""

    def of_atoms(f: Any, x: Any, key: Any, size: Size, args: Any) -> Any:
        found = method(f, x, key, size, args)
        graph = args[0]
        pairs = found["pairs"].sum(axis=1, keepdims=True)
        return found["atoms"].sum(axis=1) + 0.5 * weave.sum_at_atoms(pairs, graph)[:, 0]

    return of_atoms


def _integrated(f: Any, x: Any, key: Any, size: Size, args: Any) -> Any:
    nodes = xattr.quadrature.gauss_legendre(size.nodes)
    return xattr.integrated_gradients(f, x, quadrature=nodes, args=args, warn_above=None)


def _smooth(f: Any, x: Any, key: Any, size: Size, args: Any) -> Any:
    def method(f: Any, x: Any, *, args: Any) -> Any:
        return _integrated(f, x, key, size._replace(nodes=size.nodes // 2), args)

    options: dict[str, Any] = {"num_samples": size.samples, "args": args}
    return xattr.smooth_grad(f, x, key, method=method, **options)


def _absolute_gradient(f: Any, x: Any, key: Any, size: Size, args: Any) -> Any:
    return jax.tree.map(jnp.abs, xattr.gradient(f, x, args=args))


def _cam(f: Any, x: Any, key: Any, size: Size, args: Any) -> Any:
    options: dict[str, Any] = {"upsample": False, "spatial_axes": 1, "relu": False}
    return xattr.grad_cam(f, x, layer="weave", args=args, **options)


def presence(f: Any, there: Any, x: Any, graph: Any, task: Any, params: Any) -> Any:
    """Return f with the features of some atoms; a pair is there if both of its atoms are."""
    first, second = weave.ends_of(there, graph)
    kept = {"atoms": x["atoms"] * there[:, None], "pairs": x["pairs"] * (first * second)[:, None]}
    return f(kept, graph, task, params)


def _of_presence(f: Any) -> Any:
    def score(there: Any, x: Any, graph: Any, task: Any, params: Any) -> Any:
        return presence(f, there, x, graph, task, params)

    return score


def _ablation(f: Any, x: Any, key: Any, size: Size, args: Any) -> Any:
    there = jnp.ones(len(x["atoms"]))
    return xattr.ablation(_of_presence(f), there, args=(x, *args))


def _shapley(f: Any, x: Any, key: Any, size: Size, args: Any) -> Any:
    there, count = jnp.ones(len(x["atoms"])), size.orders
    return xattr.shapley_sampling(
        _of_presence(f), there, None, key, num_permutations=count, args=(x, *args)
    ).attributions


METHODS: dict[str, Method] = {
    "integrated gradients": _on_features(_integrated),
    "SmoothGrad(IG)": _on_features(_smooth),
    "gradient ⊙ input": _on_features(
        lambda f, x, key, size, args: xattr.gradient_x_input(f, x, args=args)
    ),
    "|gradient|": _on_features(_absolute_gradient),
    "Grad-CAM": _cam,
    "LRP": _on_features(lambda f, x, key, size, args: xattr.lrp(f, x, args=args)),
    "DeepLIFT": _on_features(lambda f, x, key, size, args: xattr.deep_lift(f, x, args=args)),
    "ablation of atoms": _ablation,
    "Shapley values of atoms": _shapley,
}
