"""Trained networks on disk, and a loop of training steps that resumes where it was interrupted."""

import shlex
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.serialization
import jax
import tqdm

from paper_repro.data.packages import DataError, replacing

SAVE_EVERY = 60.0
"""Seconds between two saved states, so the most that a crash can cost."""


class State(NamedTuple):
    """What a resumed run starts from."""

    carry: Any
    """What one step hands to the next: parameters, the optimizer's state and the like."""
    step: int
    seconds: float


def run(
    start: Any,
    step: Callable[[Any, int], tuple[Any, Any]],
    steps: int,
    path: Path,
    *,
    text: str,
    progress: bool,
) -> State:
    """Take `step(carry, i) -> (carry, loss)` for i = 0, 1, …; go on from `path`, if it is there.

    The state is saved there every minute and when the run is interrupted. A step depends on carry
    and i alone, so a resumed run ends as an uninterrupted one. Delete the file when the result is
    saved.
    """
    check_writable(path.parent)
    state = _resumed(start, path)
    clock = last = time.perf_counter()
    bar = tqdm.tqdm(
        total=steps, initial=state.step, desc=text, unit="step", disable=not progress, leave=False
    )
    try:
        with bar:
            while state.step < steps:
                carry, loss = step(state.carry, state.step)
                if state.step % 20 == 0:
                    bar.set_postfix(loss=f"{float(loss):.3f}")
                now = time.perf_counter()
                seconds, clock = state.seconds + now - clock, now
                # One assignment, so that Ctrl-C finds the state before this step or after it.
                state = State(carry, state.step + 1, seconds)
                bar.update()
                if now - last > SAVE_EVERY:
                    write(state, path)
                    last = time.perf_counter()
    except KeyboardInterrupt:
        write(state, path)
        raise
    return state


def _resumed(start: Any, path: Path) -> State:
    if not path.exists():
        return State(start, 0, 0.0)
    fields = read(path, State)
    fields["carry"] = flax.serialization.from_state_dict(start, fields["carry"])
    return State(**fields)


def write(state: Any, path: Path) -> None:
    """Write a NamedTuple of trees and numbers; no file is left half-written."""
    fields = {key: flax.serialization.to_state_dict(v) for key, v in state._asdict().items()}
    with replacing(path) as part:
        part.write_bytes(flax.serialization.msgpack_serialize(jax.device_get(fields)))


def check_writable(folder: Path) -> None:
    """Raise before the training begins if its result could not be saved."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise DataError(
            f"{folder}: expected a folder that can be written, found: {error}. "
            "To mend it: set XATTR_CACHE to another folder"
        ) from error


def read(path: Path, kind: Any) -> dict[str, Any]:
    """Return the fields of a NamedTuple of this kind that `write` wrote."""
    try:
        fields: dict[str, Any] = flax.serialization.msgpack_restore(path.read_bytes())
        if {*fields} != {*kind._fields}:
            raise ValueError(f"the fields {', '.join(fields)}")
    except Exception as error:  # a damaged file can raise any error
        raise DataError(
            f"{path}: expected a trained network, found: {error!r}. "
            f"To mend it: rm {shlex.quote(str(path))}"
        ) from error
    return fields
