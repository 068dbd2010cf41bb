"""A data set in files: whole files only, resumed without computing twice, refused where foreign."""

import functools
import io
import os
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import xattr
import xattr._scale.sharding
from tests import table
from xattr._scale.dataset import attribute_dataset
from xattr.testing import count_compilations

PARAMS = table.parameters()
SCORE = xattr.targets.logit(table.mlp)
AXES = (0, 0, None)
RULE = xattr.quadrature.midpoint(5)


def method(x, label, params, *, quadrature=RULE):
    return xattr.integrated_gradients(SCORE, x, quadrature=quadrature, args=(label, params))


def batches(sizes=(5, 5, 3), seed=0):
    random = np.random.default_rng(seed)
    return [
        (random.standard_normal((size, 3), np.float32), random.integers(0, 4, size), PARAMS)
        for size in sizes
    ]


def read(file):
    with np.load(file) as stored:
        return {name: stored[name] for name in stored.files if name != "digest"}


def mesh_of(kind=AxisType.Auto, **axes):
    kinds = (kind,) * len(axes)
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=kinds)


EXPLICIT = {"kind": AxisType.Explicit}
MESHES = [None, {"batch": 4, "node": 2}, {"batch": 2, **EXPLICIT}, {"node": 2, **EXPLICIT}]


@pytest.mark.parametrize("axes", MESHES, ids=str)
def test_files_hold_the_attributions_of_the_batches(tmp_path, axes):
    mesh = None if axes is None else mesh_of(**axes)

    def own(x, label, params, *, quadrature=RULE):  # compiled by no other test
        return method(x, label, params, quadrature=quadrature)

    with count_compilations() as counts:
        files = attribute_dataset(own, batches(), out=tmp_path / "new", mesh=mesh, in_axes=AXES)
    assert counts == {
        "batch_attributions": 1
    }  # the last batch is smaller, and runs the same program
    assert [file.name for file in files] == [f"batch-00000{k}.process-0.npz" for k in range(3)]
    assert sorted(os.listdir(tmp_path / "new")) == [file.name for file in files]
    for file, batch in zip(files, batches(), strict=True):
        table.close(read(file), {"attributions": jax.vmap(method, AXES)(*batch)}, 1e-6)


def test_leaves_are_named_and_half_precision_is_stored_as_float32(tmp_path):
    def attribute(x):
        f = lambda x: jnp.sum(x["a"].astype(jnp.float32) ** 2) + jnp.sum(x["b"].astype(jnp.float32))
        return {"map": xattr.gradient_x_input(f, x), "score": f(x)}

    x = {"a": jnp.arange(6, dtype=jnp.bfloat16).reshape(3, 2), "b": np.ones((3, 1), np.float16)}
    (file,) = attribute_dataset(attribute, iter([x]), out=str(tmp_path))
    stored = read(file)
    names = {"attributions['map']['a']", "attributions['map']['b']", "attributions['score']"}
    assert set(stored) == names
    assert stored["attributions['map']['a']"].dtype == np.float32
    assert stored["attributions['map']['b']"].dtype == np.float16
    np.testing.assert_array_equal(
        stored["attributions['map']['a']"], 2 * np.arange(6.0).reshape(3, 2) ** 2
    )


class Runs(list):
    """The first number of every batch that is computed, and how many files there were then."""

    def __init__(self):
        self.folder, self.written = None, []

    def add(self, operands):
        self.append(float(np.asarray(operands[0]).flat[0]))
        self.written.append(len(list(self.folder.glob("*.npz"))) if self.folder else None)


@pytest.fixture
def runs(monkeypatch):
    seen, original = Runs(), xattr._scale.sharding.vmapped

    def vmapped(method, in_axes):
        attribute = original(method, in_axes)
        return lambda *operands: (seen.add(operands), attribute(*operands))[1]

    monkeypatch.setattr(xattr._scale.sharding, "vmapped", vmapped)
    return seen


def test_finished_batches_are_not_computed_again(tmp_path, runs):
    run = functools.partial(attribute_dataset, method, out=tmp_path, in_axes=AXES)
    files = run(batches())
    assert len(runs) == 3
    stamps = [file.stat().st_mtime_ns for file in files]
    assert run(batches()) == files
    assert len(runs) == 3
    assert [file.stat().st_mtime_ns for file in files] == stamps
    whole = files[1].read_bytes()
    files[1].unlink()
    (tmp_path / "batch-000009.process-0.partial").write_bytes(whole[:100])
    assert run(batches()) == files
    assert runs[3:] == [runs[1]]
    table.close(read(files[1]), {"attributions": jax.vmap(method, AXES)(*batches()[1])}, 1e-6)
    assert sorted(tmp_path.iterdir()) == files  # the half-written one is gone


def other_inputs():
    first = batches()
    x, labels, params = first[1]
    return {
        "an example": [first[0], (x + np.eye(5, 3, dtype=np.float32), labels, params)],
        "a label": [first[0], (x, (labels + 1) % 4, params)],
        "parameters": [(x, labels, table.parameters(1)) for x, labels, _ in first],
        "a dtype": [(x.view(np.int32), labels, params) for x, labels, params in first],
        "a shape": [(x[:, None], labels, params) for x, labels, params in first],
        "a structure": [(x, labels, [params]) for x, labels, params in first],
    }


OTHERS = other_inputs()


@pytest.mark.parametrize("what", OTHERS)
def test_a_folder_of_other_inputs_is_refused(tmp_path, runs, what):
    run = functools.partial(attribute_dataset, method, out=tmp_path, in_axes=AXES)
    files = run(batches())
    before = [file.read_bytes() for file in files]
    with pytest.raises(ValueError, match=r"`out` has batch-00000.\.process-0\.npz of other inputs"):
        run(OTHERS[what])
    assert [file.read_bytes() for file in files] == before
    assert len(runs) == 3


def test_what_is_bound_in_the_method_belongs_to_the_digest(tmp_path):
    run = functools.partial(attribute_dataset, batches=batches((2,)), out=tmp_path, in_axes=AXES)
    run(functools.partial(method, quadrature=RULE))
    run(functools.partial(method, quadrature=xattr.quadrature.midpoint(5)))  # the same, anew
    with pytest.raises(ValueError, match="of another method"):
        run(functools.partial(method, quadrature=xattr.quadrature.midpoint(6)))
    with pytest.raises(ValueError, match="of another method"):
        run(lambda x, label, params: method(x, label, params))
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"not ours")
    with pytest.raises(ValueError, match="`out` has"):
        run(functools.partial(method, quadrature=RULE))


def at_the_middle(path, x):
    return x * path(0.5)


def test_what_a_path_holds_belongs_to_the_digest(tmp_path):
    def run(end):
        path = xattr.paths.aumann_shapley(jnp.full(3, end))
        attribute_dataset(functools.partial(at_the_middle, path), [jnp.ones((2, 3))], out=tmp_path)

    run(1.0)
    run(1.0)  # the same, anew
    with pytest.raises(ValueError, match="of another method"):
        run(2.0)


def test_shared_numpy_arrays_that_change_in_place_are_noticed(tmp_path):
    weight = np.ones(2, np.float32)

    def changing():
        for factor in (1, 3):
            weight[:] = factor
            yield np.ones((2, 2), np.float32), weight

    attribute = lambda x, weight: xattr.gradient(lambda x: jnp.sum(weight * x), x)
    files = attribute_dataset(attribute, changing(), out=tmp_path, in_axes=(0, None))
    assert [read(file)["attributions"][0, 0] for file in files] == [1, 3]


@pytest.mark.parametrize("axes", [None, {"batch": 2}], ids=str)
def test_a_loader_may_fill_one_buffer_again_and_again(tmp_path, axes):
    """JAX on a CPU uses the memory of an aligned NumPy array itself, even after device_put."""
    memory = np.zeros(2 * 2**16 * 4 + 64, np.uint8)
    start = -memory.ctypes.data % 64
    buffer = memory[start : start + 2 * 2**16 * 4].view(np.float32).reshape(2, 2**16)

    def filled():
        for value in (1.0, 2.0, 3.0):
            buffer[:] = value
            yield buffer

    def f(x):
        return jnp.sum(jax.lax.fori_loop(0, 50, lambda _, y: jnp.tanh(y) / jnp.tanh(y) * y, x) ** 2)

    mesh = None if axes is None else mesh_of(**axes)
    attribute = functools.partial(xattr.gradient, f)
    files = attribute_dataset(attribute, filled(), out=tmp_path, mesh=mesh)
    for value, file in zip((1, 2, 3), files, strict=True):
        np.testing.assert_allclose(read(file)["attributions"], 2 * value, rtol=1e-3)


def test_an_interrupt_leaves_whole_files(tmp_path):
    def until_interrupted():
        yield from batches()[:2]
        raise KeyboardInterrupt

    run = functools.partial(attribute_dataset, method, out=tmp_path, in_axes=AXES)
    with pytest.raises(KeyboardInterrupt):
        run(until_interrupted())
    assert [file.name for file in tmp_path.iterdir()] == ["batch-000000.process-0.npz"]
    assert len(run(batches())) == 3


def test_an_interrupt_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(stream, **arrays):
        stream.write(b"half of a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        attribute_dataset(method, batches(), out=tmp_path, in_axes=AXES)
    assert not list(tmp_path.iterdir())


def test_the_next_batch_is_dispatched_before_one_is_written(tmp_path, runs):
    """But not the one after it: at most two are in flight."""
    asked = []

    def watched():
        for batch in batches((2, 2, 2, 2)):
            asked.append(len(list(tmp_path.glob("*.npz"))))
            yield batch

    runs.folder = tmp_path
    attribute_dataset(method, watched(), out=tmp_path, in_axes=AXES)
    assert runs.written == [0, 0, 1, 2]  # when each was dispatched
    assert asked == [0, 0, 1, 2]  # when each was asked for: 0 after 1 was dispatched


def test_progress_wraps_the_loop_as_tqdm_does(tmp_path):
    tqdm = pytest.importorskip("tqdm").tqdm
    bars = []

    def progress(numbers):
        bars.append(tqdm(numbers, file=io.StringIO()))
        return bars[-1]

    run = functools.partial(attribute_dataset, method, out=tmp_path, in_axes=AXES)
    run(batches(), progress=progress)
    run((batch for batch in batches()), progress=progress)
    assert [(bar.n, bar.total) for bar in bars] == [(3, 3), (3, None)]
    with pytest.raises(ValueError, match="only 2 of 3 batches came: `progress`"):
        run(batches(), progress=lambda numbers: list(numbers)[:2])


def test_errors(tmp_path):
    run = functools.partial(attribute_dataset, out=tmp_path, in_axes=AXES)
    with pytest.raises(TypeError, match="`method` must be a function"):
        run(3, batches())
    with pytest.raises(ValueError, match="`in_axes` must have an entry for each of the 1 operands"):
        run(method, [np.ones((2, 3))])
    with pytest.raises(ValueError, match="batch is empty"):
        run(method, batches((0,)))
    assert run(method, []) == []


SCRIPT = """
    import os, signal, sys
    import jax
    jax.config.update("jax_num_cpu_devices", 2)
    import numpy as np
    import xattr
    from xattr._scale.dataset import attribute_dataset

    last, *folders = sys.argv[1:]
    def f(x):
        return jax.numpy.sum(jax.numpy.tanh(x) ** 3)

    def batches():
        for number in range(6):
            if number == int(last):
                os.kill(os.getpid(), signal.SIGKILL)
            yield np.random.default_rng(number).standard_normal((4, 5), np.float32)

    computed = []
    import xattr._scale.sharding
    plain = xattr._scale.sharding.sharded
    def counting(*args, **options):
        attribute = plain(*args, **options)
        return lambda *operands: (computed.append(1), attribute(*operands))[1]
    xattr._scale.sharding.sharded = counting
    mesh = jax.make_mesh((2,), ("node",), axis_types=(jax.sharding.AxisType.Auto,))
    method = lambda x, **options: xattr.integrated_gradients(f, x, **options)
    for out in folders:
        attribute_dataset(method, batches(), out=out, mesh=mesh)
        print(len(computed))
"""


def run_script(last, *folders):
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(last), *map(str, folders)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_killed_and_run_again_it_is_bit_for_bit_the_same(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert run_script(4, killed).returncode == -signal.SIGKILL
    done = sorted(file.name for file in killed.iterdir())
    assert done == [f"batch-00000{k}.process-0.npz" for k in range(3)]  # 3 was under way
    resumed = run_script(-1, killed, whole)
    assert resumed.stdout.split() == ["3", "9"], resumed.stderr  # 3 of them, then all 6
    files = sorted(whole.iterdir())
    assert len(files) == 6
    for file in files:
        again = read(killed / file.name)
        for name, array in read(file).items():
            assert array.tobytes() == again[name].tobytes()
