"""Measures of attributions beside Quantus 0.6: the same numbers, and the time.

    pip install -e '.[bench]' 'quantus==0.6.0' && python tests/benchmarks/versus_quantus.py

EfficientNet-Lite0 looks at 16 photographs of PyPI packages, in PyTorch for Quantus and in JAX for
xattr, with gradient ⊙ input as the map. A number is the median (smallest to largest) of ratios of
neighbouring runs in one process: ours divided by theirs, at equal evaluations of the network.

The definitions are the same where Quantus is set as here:

- `PixelFlipping` is `perturbation_curve` without its first point; Quantus has no insertion, which
  costs as much as deletion.
- `RegionPerturbation` is the drops of `perturbation_curve` with patches as groups.
- `Infidelity` has one sample that takes away one block after the other, and keeps those that are
  gone; the sums and the mean are those of `infidelity`.
"""

import argparse
import statistics
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import quantus
import torch

import xattr
from paper_repro.data import imagenet
from paper_repro.networks import efficientnet
from tests.benchmarks.torch_efficientnet import EfficientNetLite0
from xattr import evaluation

SIZE, PATCH, BLOCK, STEPS = 224, 14, 56, 42
RUNS = 3


class Classifier(torch.nn.Module):
    """Probabilities of the classes."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        with torch.no_grad():
            return torch.softmax(self.network(x), -1)


def quantus_measures(model, images, labels, maps):
    """Return Quantus's measures as functions without arguments."""
    batch = {"x_batch": images, "y_batch": labels, "a_batch": maps}
    options = {
        "disable_warnings": True,
        "display_progressbar": False,
        "abs": False,
        "normalise": False,
        "perturb_baseline": 0.0,
    }
    features = maps[0].size // STEPS
    measures = {
        "deletion": quantus.PixelFlipping(features_in_step=features, **options),
        "AOPC": quantus.RegionPerturbation(
            patch_size=PATCH, regions_evaluation=STEPS, order="morf", **options
        ),
        "infidelity": quantus.Infidelity(
            perturb_patch_sizes=[BLOCK], n_perturb_samples=1, **options
        ),
    }

    def run(measure):
        return lambda: np.asarray(
            measure(model=model, softmax=False, device="cpu", channel_first=True, **batch)
        )

    return {name: run(measure) for name, measure in measures.items()}


def our_measures(f, args, images, labels, maps):
    """Return the same numbers by xattr."""
    patches = xattr.groups.grid(images[0], (PATCH, PATCH))
    counts = np.arange(STEPS + 1) * (maps[0].size // STEPS)
    blocks = xattr.groups.grid(images[0], (BLOCK, BLOCK))
    gone = jnp.asarray(blocks[None] <= np.arange(blocks.max() + 1)[:, None, None])

    def deletion(x, label, a):
        curve = evaluation.perturbation_curve(
            f, a, x, counts=counts, args=(label, *args), chunk_size=8
        )
        return curve[1:]

    def aopc(x, label, a):
        steps = np.arange(STEPS + 1)
        curve = evaluation.perturbation_curve(
            f, a, x, groups=patches, counts=steps, args=(label, *args), chunk_size=8
        )
        return curve[0] - curve[1:]

    @jax.jit
    def infidelity(x, label, a, *params):
        def one(k):
            take = lambda key, x: jnp.where(gone[k][..., None], x, 0)
            return evaluation.infidelity(
                f, a, x, take, jax.random.key(0), num_samples=1, args=(label, *params)
            )

        return jax.lax.map(one, jnp.arange(len(gone)), batch_size=8).mean()

    def over(measure, *more):
        return lambda: np.stack(
            [np.asarray(measure(*each, *more)) for each in zip(images, labels, maps, strict=True)]
        )

    return {
        "deletion": over(deletion),
        "AOPC": over(aopc),
        "infidelity": over(infidelity, *args),
    }


def main(count):
    """Compare the numbers, then the times."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    params = efficientnet.load(progress=False)
    photographs = imagenet.load(SIZE, progress=False)[:count]
    images = np.stack([each.image for each in photographs])
    f = xattr.targets.probability(efficientnet.network)
    explain = jax.jit(lambda x, label: xattr.gradient_x_input(f, x, args=(label, params)))
    logits = jax.jit(efficientnet.network)
    labels = np.array([int(np.argmax(logits(x, params))) for x in images])
    maps = np.stack([np.asarray(explain(x, y)) for x, y in zip(images, labels, strict=True)])
    first = lambda batch: np.ascontiguousarray(np.moveaxis(batch, -1, 1))
    model = Classifier(EfficientNetLite0(jax.device_get(params))).eval()
    theirs = quantus_measures(model, first(images), labels, first(maps))
    ours = our_measures(f, (params,), images, labels, maps)
    print(f"| measure | largest difference | range | time, of {RUNS} |\n|---|---|---|---|")
    for name, run in theirs.items():
        a, b = np.asarray(ours[name]()), np.asarray(run())
        ratios = []
        for _ in range(RUNS):
            times = []
            for each in (ours[name], run):
                start = time.perf_counter()
                each()
                times.append(time.perf_counter() - start)
            ratios.append(times[0] / times[1])
        apart, extent = np.abs(a - b.reshape(a.shape)).max(), np.ptp(a)
        print(
            f"| {name} | {apart:.1e} | {extent:.2g} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}–{max(ratios):.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=16, help="photographs")
    main(parser.parse_args().count)
