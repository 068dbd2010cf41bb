"""Attributions of a data set, written to files batch by batch; an interrupted run can resume."""

import functools
import hashlib
import itertools
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from xattr._core import compilation
from xattr._scale import sharding
from xattr.types import ArrayTree, Progress

_BATCH_AXIS = "batch"


class _Inputs(NamedTuple):
    """A batch: its leaves, 0 or None for each (whether it has an axis of examples), its size."""

    leaves: list[Any]
    axes: tuple[int | None, ...]
    treedef: Any
    size: int


class _Shared(NamedTuple):
    """An array that all examples share: as given, its digest, and its copy on the devices."""

    leaf: Any
    digest: bytes
    placed: Any


def attribute_dataset(
    method: sharding.Method,
    batches: Iterable[Any],
    *,
    out: str | os.PathLike[str],
    mesh: Mesh | None = None,
    in_axes: Any = 0,
    progress: Progress | None = None,
) -> list[Path]:
    """Attribute batches into a folder of files; go on where an earlier run stopped.

    file[n] = xattr.sharded(method, mesh, in_axes=in_axes)(*batches[n]), or, without a mesh,
    jax.vmap(method, in_axes)(*batches[n]). One batch is written while the next is computed.

    A batch whose file is there is not computed again. A file appears only when it is complete. It
    carries a digest of the batch, of the shared operands, and of the arrays and numbers bound in
    `method` by `functools.partial`. The digest does not cover the code of the method, or what the
    code reads from elsewhere.

    A batch that is smaller than an earlier one is padded with its last example, so that it does not
    recompile.

    With more processes than one (`jax.distributed`) and a mesh of all of them, each process passes
    the examples of its own devices and writes their results. Its batches must be of the same size
    and number as those of the others. The last may be smaller, but not empty.

    Args:
        method: `method(*operands)` attributes one example.
        batches: each is one operand or a tuple of operands, with a leading axis of examples on all
            but those that have None in `in_axes`.
        out: the folder; it is made if it does not exist.
        mesh: the devices to use, as for `xattr.sharded`. None is the default device.
        in_axes: as for `jax.vmap`: 0 for an axis of examples, None for what all examples share,
            such as parameters.
        progress: wraps the loop over the numbers of the batches, as `tqdm.tqdm` does.

    Returns:
        The files, in order. `out`/batch-000017.process-0.npz holds the result of batch 17. Its
        leaves have the names "attributions" followed by `jax.tree_util.keystr`; bfloat16 is stored
        as float32.

    Raises:
        ValueError: if `out` has a file of other inputs, a batch has no examples, `in_axes` do not
            fit, or the mesh has neither axis of `xattr.sharded`.
        TypeError: if `method` is not a function.

    Source:
        `jax.make_array_from_process_local_data`, for the examples of many processes.

    Example:
        >>> import tempfile, jax.numpy as jnp, numpy as np, xattr
        >>> method = lambda x: xattr.gradient_x_input(lambda x: jnp.sum(x**2), x)
        >>> out = tempfile.TemporaryDirectory()
        >>> (file,) = xattr.attribute_dataset(method, [np.array([[1.0], [2.0]])], out=out.name)
        >>> np.load(file)["attributions"].tolist()
        [[2.0], [8.0]]
        >>> out.cleanup()
    """
    compilation.check_callable(method, "method")
    attribute = (
        sharding.vmapped(method, in_axes)
        if mesh is None
        else sharding.sharded(method, mesh, in_axes=in_axes)
    )
    folder = _opened(out)
    finished, of_method = _finished(folder, mesh), b"".join(_digests_in(method))
    shared: dict[int, _Shared] = {}
    files: list[Path] = []
    size, write = 0, None
    for batch in _in_order(batches, progress):
        inputs = _inputs(batch, in_axes)
        shared = _shared(inputs, mesh, shared)
        digest = _digest_of(inputs, shared, of_method)
        files.append(folder / f"batch-{len(files):06d}.process-{jax.process_index()}.npz")
        size = max(size, inputs.size)
        if _is_written(files[-1], digest) and files[-1].name in finished:
            continue
        result = attribute(*_placed(inputs, size, mesh, shared))
        if write is not None:
            write()  # JAX computes this batch meanwhile
        write = functools.partial(_write, files[-1], digest, result, inputs.size, mesh)
    if write is not None:
        write()
    return files


def _opened(out: str | os.PathLike[str]) -> Path:
    """Return the folder, after removing files that a killed run left half-written."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for half in folder.glob(f"*.process-{jax.process_index()}.partial"):
        half.unlink()
    return folder


def _finished(folder: Path, mesh: Mesh | None) -> set[str]:
    """Return the names of this process's files of batches that need not be computed again.

    A batch is finished if every process has its file: all have to take part in computing one.
    """
    own = {file.name for file in folder.glob(f"*.process-{jax.process_index()}.npz")}
    if mesh is None or jax.process_count() == 1:
        return own
    numbers = {int(name.split(".")[0].removeprefix("batch-")): name for name in own}
    most = multihost_utils.process_allgather(np.int32(max(numbers, default=-1))).max()
    there = np.array([number in numbers for number in range(most + 1)], np.int32)
    everywhere = multihost_utils.process_allgather(there).all(axis=0)
    return {numbers[int(number)] for number in np.flatnonzero(everywhere)}


def _in_order(batches: Iterable[Any], progress: Progress | None) -> Iterator[Any]:
    """Yield the batches in order, with `progress` around their numbers."""
    try:
        count: int | None = len(batches)  # type: ignore[arg-type]
    except TypeError:
        count = None
    numbers: Iterable[int] = itertools.count() if count is None else range(count)
    done = 0
    for _, batch in zip(numbers if progress is None else progress(numbers), batches, strict=False):
        yield batch
        done += 1
    if count is not None and done != count:
        raise ValueError(
            f"only {done} of {count} batches came: `progress` must yield every item of the "
            "iterable that it is given, once, as tqdm.tqdm does, and `batches` as many as its len"
        )


def _inputs(batch: Any, in_axes: Any) -> _Inputs:
    operands, axes = sharding.batched(batch if isinstance(batch, tuple) else (batch,), in_axes)
    leaves, treedef = jax.tree.flatten(operands, is_leaf=lambda leaf: leaf is None)
    return _Inputs(leaves, axes, treedef, sharding.count_of(leaves, axes))


def _shared(inputs: _Inputs, mesh: Mesh | None, before: dict[int, _Shared]) -> dict[int, _Shared]:
    """Return what the examples share, reusing digests and copies from the batch before."""

    def of(place: int, leaf: Any) -> _Shared:
        known = before.get(place)
        if known is not None and known.leaf is leaf and isinstance(leaf, jax.Array):
            return known  # a JAX array cannot have changed; a NumPy array can
        digest = _digest(leaf)
        if known is not None and known.digest == digest:
            return known._replace(leaf=leaf)
        return _Shared(leaf, digest, _put(leaf, mesh, P()))

    pairs = enumerate(zip(inputs.leaves, inputs.axes, strict=True))
    return {place: of(place, leaf) for place, (leaf, axis) in pairs if axis is None}


def _digest_of(inputs: _Inputs, shared: dict[int, _Shared], of_method: bytes) -> str:
    """Return a digest of all that determines the attributions of a batch, except for code."""
    digest = hashlib.blake2b(of_method, digest_size=16)
    digest.update(repr((str(inputs.treedef), inputs.axes)).encode())
    for place, leaf in enumerate(inputs.leaves):
        digest.update(shared[place].digest if place in shared else _digest(leaf))
    return digest.hexdigest()


def _digests_in(method: Any) -> Iterator[bytes]:
    """Yield digests of the arrays, numbers and names that a callable is made of."""
    if isinstance(method, functools.partial):
        for part in (method.func, *jax.tree.leaves((method.args, method.keywords))):
            yield from _digests_in(part)
    elif isinstance(method, compilation.Bound):
        for part in (type(method), *jax.tree.leaves(vars(method))):
            yield from _digests_in(part)
    elif callable(method):
        yield _digest(f"{method.__module__}.{getattr(method, '__qualname__', type(method))}")
    else:
        yield _digest(method)


def _digest(leaf: Any) -> bytes:
    """Return a digest of an array, its dtype and its shape, or of the `repr` of a number."""
    digest = hashlib.blake2b(digest_size=16)
    if not isinstance(leaf, (jax.Array, np.ndarray)):
        digest.update(repr(leaf).encode())
        return digest.digest()
    digest.update(f"{leaf.dtype} {leaf.shape}".encode())
    for part in _on_host(leaf):
        digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return digest.digest()


def _on_host(leaf: Any) -> list[np.ndarray]:
    """Return an array, or those of its shards that this process has."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return _on_host(jax.random.key_data(leaf))
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return [np.asarray(shard.data) for shard in leaf.addressable_shards]
    return [np.asarray(leaf)]


def _is_written(file: Path, digest: str) -> bool:
    """Tell whether the file is there; raise if its digest is another."""
    if not file.exists():
        return False
    try:
        with np.load(file) as stored:
            if str(stored["digest"]) == digest:
                return True
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile):
        pass  # not a file of this function: refused below
    raise ValueError(
        f"`out` has {file.name} of other inputs, or of another method: pass an empty folder, or "
        "remove its files"
    )


def _placed(
    inputs: _Inputs, size: int, mesh: Mesh | None, shared: dict[int, _Shared]
) -> tuple[Any, ...]:
    """Return the operands on the devices, with the examples padded to `size`."""
    spec = _spec(mesh)
    extra = size + -size % _pieces(mesh, spec) - inputs.size

    def put(place: int, leaf: Any) -> Any:
        return _put(sharding.repeat_last(leaf, extra), mesh, spec)

    leaves = [
        shared[place].placed if place in shared else put(place, leaf)
        for place, leaf in enumerate(inputs.leaves)
    ]
    return jax.tree.unflatten(inputs.treedef, leaves)


def _spec(mesh: Mesh | None) -> P:
    """Return the PartitionSpec of the examples."""
    return P(_BATCH_AXIS) if mesh is not None and _BATCH_AXIS in mesh.axis_names else P()


def _pieces(mesh: Mesh | None, spec: P) -> int:
    """Return into how many parts this process's devices divide its examples."""
    if mesh is None or spec == P():
        return 1
    where = NamedSharding(mesh, spec).addressable_devices_indices_map((mesh.shape[_BATCH_AXIS],))
    return len({index[0].start for index in where.values() if index})


def _put(leaf: Any, mesh: Mesh | None, spec: P) -> Any:
    """Move an array of this process to its devices; with a mesh it is part of a global array."""
    if not isinstance(leaf, (jax.Array, np.ndarray)):
        return leaf
    if mesh is None:
        return sharding.put(leaf, None)
    if isinstance(leaf, jax.Array) and leaf.sharding.device_set == set(mesh.devices.flat):
        return leaf
    if jax.process_count() == 1:
        return sharding.put(leaf, NamedSharding(mesh, spec))
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(leaf), mesh, spec)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), np.array(leaf))


def _write(file: Path, digest: str, result: ArrayTree, count: int, mesh: Mesh | None) -> None:
    """Write the results of this process's examples; the file appears when it is complete."""
    arrays = {
        f"attributions{jax.tree_util.keystr(path)}": _storable(_own(leaf, mesh)[:count])
        for path, leaf in jax.tree_util.tree_leaves_with_path(result)
    }
    half = file.with_suffix(".partial")
    try:
        with half.open("wb") as stream:
            np.savez(stream, allow_pickle=False, digest=np.array(digest), **arrays)
        os.replace(half, file)
    except BaseException:  # KeyboardInterrupt, too
        half.unlink(missing_ok=True)
        raise


def _own(leaf: jax.Array, mesh: Mesh | None) -> np.ndarray:
    """Return the results of this process's examples."""
    if mesh is None or leaf.is_fully_addressable:
        return np.asarray(leaf)
    shards = jax.device_put(leaf, NamedSharding(mesh, _spec(mesh))).addressable_shards
    parts = {shard.index[0].start or 0: shard.data for shard in shards}  # copies count once
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])


def _storable(array: np.ndarray) -> np.ndarray:
    """Return an array of a dtype that NumPy has: float32 for bfloat16 and the like."""
    return array if array.dtype.isbuiltin == 1 else array.astype(np.float32)
