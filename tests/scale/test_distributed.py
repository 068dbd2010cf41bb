"""Two processes give what one gives, and the death of one does not hang the other."""

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests import table
from tests.scale import two_processes

ROOT = Path(__file__).parents[2]


def launch(task, folder):
    """Run both processes; return their return codes, what they printed, and the seconds."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    command = [sys.executable, "-m", "tests.scale.two_processes", task]
    pair = [
        subprocess.Popen(
            [*command, str(number), str(port), str(folder)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=90) for process in pair]
    finally:
        for process in pair:
            process.kill()
    return [process.returncode for process in pair], outputs, time.monotonic() - start


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two_processes")


@pytest.fixture(scope="module")
def after_a_kill(folder):
    codes, outputs, seconds = launch("killed", folder)
    names = sorted(path.name for path in (folder / "killed").iterdir())
    return codes, outputs, seconds, names


@pytest.fixture(scope="module")
def together(folder, after_a_kill):
    codes, outputs, _ = launch("together", folder)
    assert codes == [0, 0], outputs


attribute = jax.jit(jax.vmap(two_processes.method, two_processes.AXES))


def expected(x):
    return attribute(x, two_processes.params())


def test_killing_one_process_ends_the_other_with_an_error(after_a_kill):
    codes, outputs, seconds, names = after_a_kill
    assert codes[1] == -9
    assert codes[0] not in (0, None)
    # The coordinator misses its heartbeats, or gloo its connection: whichever is first.
    assert re.search("stopped sending heartbeats|Gloo .* failed", outputs[0][1])
    assert seconds < 60
    # Whole files: those of the batches that both had the time to write, and none half-written.
    assert "batch-000000.process-0.npz" in names
    assert "batch-000000.process-1.npz" in names
    assert all(name.endswith(".npz") for name in names)


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize("kind", ["global", "host"])
@pytest.mark.parametrize("mesh", ["examples", "nodes"])
def test_two_processes_attribute_as_one(folder, mesh, kind):
    for process in range(2):
        result = np.load(folder / f"{mesh}-{kind}-{process}.npy")
        table.close(result, expected(next(two_processes.batches())), 1e-6)


def rows(folder, number, process):
    with np.load(folder / f"batch-{number:06d}.process-{process}.npz") as stored:
        return stored["attributions"]


@pytest.mark.usefixtures("together")
def test_each_process_writes_its_own_examples(folder):
    for number, x in enumerate(two_processes.batches()):
        for process in range(2):
            own = two_processes.own(np.asarray(expected(x)), process)
            result = rows(folder / "examples", number, process)
            assert result.shape == own.shape  # the padding of the last is gone
            table.close(result, own, 1e-6)
            table.close(rows(folder / "whole", number, process), expected(x), 1e-6)


@pytest.mark.usefixtures("together")
def test_what_was_killed_is_resumed_bit_for_bit(folder):
    """Both compute a batch again that one has not written: 1 and 2 of those killed."""
    for process in range(2):
        assert np.load(folder / f"counts-{process}.npy").tolist() == [3, 3, 2, 1]
    for number in range(3):
        for process in range(2):
            whole, resumed = (rows(folder / out, number, process) for out in ("whole", "killed"))
            assert whole.tobytes() == resumed.tobytes()
