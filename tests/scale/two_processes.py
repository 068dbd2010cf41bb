"""One of two processes that attribute together: `tests/scale/test_distributed.py` launches both."""

import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import xattr
import xattr._scale.sharding
from xattr._scale.dataset import attribute_dataset
from xattr._scale.sharding import sharded

HEARTBEAT_SECONDS = 5
AXES = (0, None)
RULE = xattr.quadrature.gauss_legendre(7)


def f(x, params):
    return jnp.sum(jnp.tanh(x @ params["w"] + params["b"]) ** 3)


def method(x, params, *, quadrature=RULE):
    return xattr.integrated_gradients(f, x, quadrature=quadrature, args=(params,))


def params():
    random = np.random.default_rng(0)
    return {"w": random.standard_normal((3, 4), np.float32), "b": np.float32(0.1)}


def batches():
    """Three batches for two processes; of the last the second process has fewer examples."""
    for number, size in enumerate((8, 8, 7)):
        yield np.random.default_rng(1 + number).standard_normal((size, 3), np.float32)


def own(x, process):
    return x[:4] if process == 0 else x[4:]


def meshes():
    """With the examples over the two processes and the nodes in each, and the other way."""
    devices = np.array(jax.devices()).reshape(2, 2)
    kinds = (AxisType.Auto, AxisType.Auto)
    return {
        "examples": Mesh(devices, ("batch", "node"), axis_types=kinds),
        "nodes": Mesh(devices.T, ("batch", "node"), axis_types=kinds),
    }


def counting():
    """Count the batches that are computed."""
    computed, original = [], xattr._scale.sharding.sharded

    def counted(*args, **options):
        attribute = original(*args, **options)
        return lambda *operands: (computed.append(1), attribute(*operands))[1]

    xattr._scale.sharding.sharded = counted
    return computed


def killed(process, folder):
    """The second process dies in the middle: the first waits for its share of the nodes."""

    def until_killed():
        for number, x in enumerate(batches()):
            if number == 2 and process == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            yield x, params()

    out = folder / "killed"
    attribute_dataset(method, until_killed(), out=out, mesh=meshes()["nodes"], in_axes=AXES)


def together(process, folder):
    """Attribute over both meshes, as one global batch and as a data set; resume what was killed."""
    x = next(batches())
    for name, mesh in meshes().items():
        local = x if name == "nodes" else own(x, process)
        at = NamedSharding(mesh, P("batch"))
        for kind, operand in {
            "global": jax.make_array_from_process_local_data(at, local),
            "host": x,
        }.items():
            attribute = sharded(method, mesh, in_axes=AXES)
            result = attribute(operand, params(), quadrature=RULE)
            whole = multihost_utils.process_allgather(result, tiled=True)
            np.save(folder / f"{name}-{kind}-{process}.npy", whole)

    computed, counts = counting(), []

    def run(out, name):
        before = len(computed)
        local = [(x if name == "nodes" else own(x, process), params()) for x in batches()]
        attribute_dataset(method, local, out=folder / out, mesh=meshes()[name], in_axes=AXES)
        counts.append(len(computed) - before)

    run("examples", "examples")
    run("whole", "nodes")
    run("killed", "nodes")
    if process == 1:
        (folder / "whole" / "batch-000001.process-1.npz").unlink()
    multihost_utils.sync_global_devices("a file is gone")
    run("whole", "nodes")
    np.save(folder / f"counts-{process}.npy", counts)


if __name__ == "__main__":
    task, number, port, folder = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"localhost:{port}",
        num_processes=2,
        process_id=int(number),
        initialization_timeout=60,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=HEARTBEAT_SECONDS,
    )
    {"killed": killed, "together": together}[task](int(number), Path(folder))
