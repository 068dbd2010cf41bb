"""The digits of the package and of IDX files are the published ones."""

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest

from paper_repro.data import mnist
from paper_repro.data.packages import DataError


@pytest.fixture(scope="module")
def digits():
    return mnist.load(progress=False)


def idx(array):
    """The bytes of an array in the IDX format of MNIST."""
    head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


def bytes_of(images):
    return np.rint(images[..., 0] * 255)


def test_the_package_holds_mnist_bit_for_bit(digits):
    published = {
        "train_images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "test_images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    }
    for name, expected in published.items():
        content = idx(bytes_of(getattr(digits, name)))
        assert hashlib.sha256(content).hexdigest() == expected
    assert digits.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert digits.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert (digits.train_images == 0).mean() == pytest.approx(0.8088, abs=5e-5)
    assert digits.test_images.dtype == np.float32
    assert digits.test_images.shape == (10_000, 28, 28, 1)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_give_the_same_digits(digits, tmp_path, zipped):
    for array, name in zip(digits, mnist.IDX_FILES, strict=True):
        content = idx(bytes_of(array) if array.ndim == 4 else array)
        path = tmp_path / (f"{name}.gz" if zipped else name.replace("-idx", ".idx"))
        path.write_bytes(gzip.compress(content, 1) if zipped else content)
    for read, expected in zip(mnist.load(tmp_path), digits, strict=True):
        np.testing.assert_array_equal(read, expected)


def test_other_idx_files_are_refused(tmp_path):
    """Fashion-MNIST has the same names and shapes, and the cache of networks is by recipe alone."""
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: no such file.*--mnist-dir"):
        mnist.load(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx(np.zeros((60_000, 28, 28))))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: expected MNIST's file, of sha"):
        mnist.load(tmp_path)
    path.rename(f"{path}.gz")
    with pytest.raises(DataError, match=r"gz: expected MNIST's file.*[Nn]ot a gzipped file"):
        mnist.load(tmp_path)


def test_the_pickle_may_ask_for_arrays_only(tmp_path):
    path = tmp_path / "harmful"
    path.write_bytes(pickle.dumps(print))
    with path.open("rb") as file, pytest.raises(pickle.UnpicklingError, match=r"builtins\.print"):
        mnist._ArrayUnpickler(file).load()
