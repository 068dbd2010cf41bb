"""Time the methods that leave features out, beside a bare loop, and beside captum and shap.

    python tests/benchmarks/perturbation.py             beside a loop over the same evaluations
    python tests/benchmarks/perturbation.py --peers     beside captum and shap, which need PyTorch

A number is the median (quartiles) of ratios of neighbouring runs in one process: ours divided by
the other. The loop evaluates f of as many masked inputs, in chunks of the same size, in one jitted
`lax.map`, with masks that it is given.
"""

import argparse
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro.data import imagenet
from paper_repro.networks import efficientnet

RUNS = 7


def ratio(ours, theirs, runs=RUNS):
    """The median and quartiles of the time of one function by that of another."""
    found = []
    for run in (ours, theirs):
        run()  # compile
    for _ in range(runs):
        times = []
        for run in (ours, theirs):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        found.append(times[0] / times[1])
    low, middle, high = statistics.quantiles(found, n=4)
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def photograph():
    """Return f of a photograph, the photograph, its args and its 14 × 14 patches."""
    params = efficientnet.load(progress=False)
    image = jnp.asarray(imagenet.load(224, progress=False)[0].image)
    f = xattr.targets.probability(efficientnet.network)
    return f, image, (967, params), xattr.groups.grid(image, (16, 16))


def mlp(inputs=12, units=64):
    """Return f of a row of a table, a row, its args, and groups (none)."""
    random = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape) / shape[0] ** 0.5, jnp.float32)
    weights = (draw(inputs, units), draw(units, units), draw(units, 1))

    def f(x, weights):
        first, second, last = weights
        h = jnp.maximum(x @ first, 0)
        return (jnp.maximum(h @ second, 0) @ last)[0]

    return f, draw(inputs) * inputs**0.5, (weights,), None


def loop(f, x, args, groups, evaluations, chunk):
    """Return a jitted loop over as many masked inputs as a method evaluates."""
    numbers = np.arange(x.size).reshape(x.shape) if groups is None else groups
    count = int(numbers.max()) + 1
    masks = jnp.asarray(np.random.default_rng(0).random((evaluations, count)) < 0.5)

    @jax.jit
    def run(x, masks, numbers, args):
        def value(mask):
            kept = mask[numbers]
            return f(jnp.where(kept.reshape(kept.shape + (1,) * (x.ndim - kept.ndim)), x, 0), *args)

        return jax.lax.map(value, masks, batch_size=chunk)

    return lambda: jax.block_until_ready(run(x, masks, jnp.asarray(numbers), args))


def beside_a_loop():
    """Print a row for each method on the photograph."""
    f, x, args, groups = photograph()
    count, key = int(groups.max()) + 1, jax.random.key(0)
    size = 8
    shared = {"groups": groups, "args": args, "chunk_size": size}
    methods = {
        "ablation": (count + 1, lambda: xattr.ablation(f, x, **shared)),
        "shapley_sampling": (
            4 * (count + 1),
            lambda: xattr.shapley_sampling(f, x, None, key, num_permutations=4, **shared),
        ),
        "kernel_shap": (
            4 * count + 2,
            lambda: xattr.kernel_shap(f, x, None, key, num_samples=4 * count, **shared),
        ),
        "lime": (500, lambda: xattr.lime(f, x, None, key, num_samples=500, **shared)),
        "rise": (
            400,
            lambda: xattr.rise(f, x, key, num_masks=400, grid=7, args=args, chunk_size=size),
        ),
        "occlusion": (
            64,
            lambda: xattr.occlusion(f, x, window=(28, 28), args=args, chunk_size=size),
        ),
    }
    print(f"EfficientNet-Lite0, {count} patches, chunks of {size}")
    for name, (evaluations, run) in methods.items():
        bare = loop(f, x, args, groups, evaluations, size)
        found = ratio(lambda run=run: jax.block_until_ready(run()), bare, 5)
        print(f"| `{name}` | {evaluations} | {found} |", flush=True)
    f, x, args, _ = mlp()
    exact = functools.partial(xattr.shapley_values, f, x, args=args)
    bare = loop(f, x, args, None, 2**12, 4096)
    found = ratio(lambda: jax.block_until_ready(exact(chunk_size=4096)), bare)
    print(f"| `shapley_values`, MLP of 12 features | 4096 | {found} |")


def beside_peers():
    """Print rows beside captum 0.9.0 (photograph) and shap (table)."""
    import torch

    from tests.benchmarks.torch_efficientnet import EfficientNetLite0

    torch.set_num_threads(2)
    f, x, args, groups = photograph()
    network = EfficientNetLite0(jax.device_get(args[1])).eval()
    captum_rows(torch, network, f, x, args, groups)
    shap_rows()


def captum_rows(torch, network, f, x, args, groups):
    """Time captum's samplers on the same superpixels and numbers of evaluations."""
    from captum import attr

    count, key = int(groups.max()) + 1, jax.random.key(0)
    image = torch.from_numpy(np.array(x)).permute(2, 0, 1)[None].contiguous()
    mask = torch.from_numpy(np.asarray(groups, np.int64))[None, None].repeat(1, 3, 1, 1)
    score = lambda batch: torch.softmax(network(batch), -1)[:, 967]
    common = {"baselines": 0, "feature_mask": mask}

    def captum(method, **options):
        def run():
            with torch.no_grad():
                return method(score).attribute(image, **common, **options)

        return run

    shared = {"groups": groups, "args": args}
    pairs = {
        "ablation": (
            lambda: xattr.ablation(f, x, **shared),
            captum(attr.FeatureAblation, perturbations_per_eval=8),
        ),
        "shapley_sampling": (
            lambda: xattr.shapley_sampling(f, x, None, key, num_permutations=2, **shared),
            captum(attr.ShapleyValueSampling, n_samples=2, perturbations_per_eval=8),
        ),
        "kernel_shap": (
            lambda: xattr.kernel_shap(f, x, None, key, num_samples=4 * count, **shared),
            captum(attr.KernelShap, n_samples=4 * count, perturbations_per_eval=8),
        ),
    }
    for name, (ours, theirs) in pairs.items():
        found = ratio(lambda ours=ours: jax.block_until_ready(ours()), theirs, 3)
        print(f"| `{name}`, {count} patches | captum | {found} |", flush=True)


def shap_rows():
    """Time shap on a network of 12 features, 1,000 rows of background, one row explained."""
    import shap

    f, x, args, _ = mlp()
    rows = np.random.default_rng(1).normal(size=(1000, 12)).astype(np.float32)
    one = jax.jit(jax.vmap(f, (0, None)))
    batch = lambda values: np.asarray(one(jnp.asarray(values, jnp.float32), *args))
    background, key = jnp.asarray(rows), jax.random.key(0)
    explainer = shap.KernelExplainer(batch, rows, silent=True)
    ours = lambda: xattr.kernel_shap(
        f, x, None, key, baselines=background, num_samples=512, args=args
    )
    theirs = lambda: explainer.shap_values(np.asarray(x), nsamples=512, silent=True)
    found = ratio(lambda: jax.block_until_ready(ours()), theirs)
    print(
        f"| `kernel_shap`, 12 features, 512 coalitions × 1,000 rows | shap | {found} |", flush=True
    )
    exact = np.asarray(xattr.shapley_values(f, x, baselines=background, args=args))
    errors = {"ours": [], "shap": []}
    for seed in range(20):
        np.random.seed(seed)  # noqa: NPY002  (shap draws from the global generator)
        errors["shap"].append(explainer.shap_values(np.asarray(x), nsamples=128, silent=True))
        errors["ours"].append(
            xattr.kernel_shap(
                f, x, None, jax.random.key(seed), baselines=background, num_samples=128, args=args
            ).attributions
        )
    root = {k: np.sqrt(np.mean((np.asarray(v) - exact) ** 2)) for k, v in errors.items()}
    print(f"root mean square error at 128 coalitions: ours {root['ours']:.2e}, shap "
          f"{root['shap']:.2e}")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", action="store_true", help="beside captum and shap")
    if parser.parse_args().peers:
        beside_peers()
    else:
        beside_a_loop()
