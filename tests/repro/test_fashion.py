"""Fashion-MNIST is read from its IDX files alone, and may be missing."""

import gzip
import hashlib
import struct

import numpy as np
import pytest

from paper_repro.data import fashion
from paper_repro.data.packages import DataError


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Four small files that count as the data set."""
    random, hashes = np.random.default_rng(0), {}
    for k, name in enumerate(fashion.IDX_FILES):
        shape = (3, 28, 28) if "images" in name else (3,)
        head = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
        content = (
            head + random.integers(0, 256 if len(shape) > 1 else 10, shape, np.uint8).tobytes()
        )
        hashes[name] = hashlib.sha256(content).hexdigest()
        path = tmp_path / (name if k % 2 else f"{name}.gz")
        path.write_bytes(content if k % 2 else gzip.compress(content))
    monkeypatch.setattr(fashion, "IDX_FILES", hashes)
    return tmp_path


def test_images_and_labels(folder):
    found = fashion.load(folder)
    assert found.train_images.shape == (3, 28, 28, 1)
    assert found.train_images.dtype == np.float32
    assert 0.9 < found.train_images.max() <= 1
    assert found.test_labels.shape == (3,)


def test_no_folder_is_no_data_set(monkeypatch, tmp_path, folder):
    monkeypatch.setattr(fashion, "FOLDER", tmp_path / "missing")
    assert fashion.load() is None
    monkeypatch.setattr(fashion, "FOLDER", folder)
    assert fashion.load() is not None


def test_other_files_are_refused(folder):
    path = folder / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(DataError, match=r"expected Fashion-MNIST's file.*--fashion-dir"):
        fashion.load(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"no such file.*Fashion-MNIST's four IDX files.*apt-get"):
        fashion.load(folder)
