"""Print the memory that the integral needs: temporaries, and the peak of a process, as captum's.

    pip install -e '.[bench]' && python tests/benchmarks/memory.py

First come the temporaries of the compiled integral for growing numbers of nodes; they do not grow.
Then comes the peak resident set of one attribution, ours and captum's, with the same weights, nodes
and inputs, each in a process of its own (Linux; without the extra, ours alone). *Before* is the
resident set after imports, weights and network are loaded. *Added* is the peak minus that, in the
first call, which compiles, and in the second. Captum's *before* includes JAX, which loads its
weights.
"""

import argparse
import gc
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

NODES, IMAGES = 48, 16
MEBI = 2**20
OURS, THEIRS = "xattr", "captum"


def temporaries() -> None:
    """Print one line for each number of nodes."""
    import jax
    import jax.numpy as jnp
    import models

    import xattr

    x, params = jnp.ones((28, 28, 1)), jax.tree.map(jnp.asarray, models.cnn_params())
    f = xattr.targets.logit(models.cnn)
    print("Temporaries of the compiled integral: CNN, one image, chunks of 16")
    for nodes in (16, 64, 256, 1024):
        rule = xattr.quadrature.midpoint(nodes)
        program = jax.jit(
            lambda x, params, rule=rule: xattr.integrated_gradients(
                f, x, quadrature=rule, args=(1, params), chunk_size=16
            )
        )
        size = program.lower(x, params).compile().memory_analysis().temp_size_in_bytes
        print(f"{nodes:5} nodes: {size / MEBI:.1f} MiB")


def run_of(case: dict[str, Any]) -> Any:
    """Import what one side needs, and return its run."""
    maker = _ours if case["side"] == OURS else _captum
    return maker(case["network"], case["nodes"], case["images"], case["chunk"])


def _ours(network: str, nodes: int, count: int, chunk: int | None) -> Any:
    import jax
    import jax.numpy as jnp
    import kernel
    import models
    import numpy as np

    import xattr

    if network == "cnn":
        model, params = models.cnn, jax.tree.map(jnp.asarray, models.cnn_params())
        images = np.ones((count, 28, 28, 1), np.float32)
    else:
        from paper_repro.networks import efficientnet

        model, params = efficientnet.network, efficientnet.load(progress=False)
        images = np.ones((count, 224, 224, 3), np.float32)
    f, labels = xattr.targets.logit(model), jnp.arange(count) % 10
    run = kernel.jitted_run(f, jnp.asarray(images), labels, params, chunk, nodes)
    return lambda: jax.block_until_ready(run())


def _captum(network: str, nodes: int, count: int, batch: int | None) -> Any:
    import captum.attr
    import models
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    layout = torch.channels_last
    if network == "cnn":
        module = models.torch_cnn(models.cnn_params()).requires_grad_(False)
        images = torch.ones(count, 1, 28, 28)
    else:
        import torch_efficientnet

        from paper_repro.networks import efficientnet

        module = torch_efficientnet.EfficientNetLite0(efficientnet.load(progress=False)).eval()
        images = torch.ones(count, 3, 224, 224)
    module, images = module.to(memory_format=layout), images.contiguous(memory_format=layout)
    method = captum.attr.IntegratedGradients(module)
    return lambda: method.attribute(
        images,
        target=torch.arange(count) % 10,
        n_steps=nodes,
        method="riemann_middle",
        internal_batch_size=batch,
    )


def measure(case: dict[str, Any]) -> None:
    """Print, as JSON, bytes: before, and the peaks of the first and second call."""
    run = run_of(case)
    gc.collect()
    before, peaks = resident("VmRSS"), []
    for _ in range(2):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        run()
        peaks.append(resident("VmHWM"))
    print(json.dumps([before, *peaks]))


def resident(entry: str) -> int:
    """Return an entry of /proc/self/status, in bytes.

    The peak, VmHWM, is better than `ru_maxrss`, which a child inherits from its parent.
    """
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"^{entry}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found, entry
    return 1024 * int(found[1])


def in_a_process(case: dict[str, Any]) -> list[int]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def cases(options: argparse.Namespace) -> list[dict[str, Any]]:
    """List what is measured; by default captum takes all nodes at once."""
    efficientnet = options.efficientnet_chunk, options.efficientnet_batch
    work = [
        ("cnn", NODES, IMAGES, options.cnn_chunk, options.cnn_batch),
        ("efficientnet", 32, 1, *efficientnet),
        *(("cnn", nodes, 1, None, options.cnn_batch) for nodes in (16, 256, 1024)),
    ]
    found = []
    for network, nodes, images, chunk, batch in work:
        settings = [(OURS, chunk), (THEIRS, batch)]
        if images == 1 and network == "cnn":
            settings.append((THEIRS, None))
        found += [
            {"network": network, "nodes": nodes, "images": images, "side": side, "chunk": size}
            for side, size in settings
            if side == OURS or importlib.util.find_spec("captum") is not None
        ]
    return found


def main() -> None:
    """Print the temporaries and the table of peaks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cnn-chunk", type=int, help="ours, of 48 nodes × 16; else the default")
    parser.add_argument("--cnn-batch", type=int, default=64, help="captum's internal_batch_size")
    parser.add_argument("--efficientnet-chunk", type=int, help="ours; else the default")
    parser.add_argument("--efficientnet-batch", type=int, default=8)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        measure(options.case)
        return
    temporaries()
    print("\nPeak resident set, MiB\n")
    print("| work | side | chunk or batch | before | added, first call | second |")
    print("|---|---|---|---|---|---|")
    for case in cases(options):
        before, *peaks = in_a_process(case)
        work = f"{case['network']}, {case['nodes']:,} nodes × {case['images']}"
        cells = [work, case["side"], str(case["chunk"] or "default")]
        cells += [f"{value / MEBI:.0f}" for value in (before, *(peak - before for peak in peaks))]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
