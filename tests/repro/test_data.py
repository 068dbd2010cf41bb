"""Files are found, fetched, checked and read, and errors say what is wrong with one."""

import hashlib
import os
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paper_repro.data import packages, photographs
from paper_repro.data.packages import DataError, Source

CONTENT = b"a few numbers"
TINY = Source("tiny-numbers", "1.0", "tiny_numbers/n.bin", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and a pip that finds only the wheels in `tmp_path / "wheels"`."""
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("XATTR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "cache"


def write_wheel(folder, content=CONTENT):
    files = {
        "tiny_numbers/__init__.py": "raise ImportError('never to be imported')",
        "tiny_numbers/n.bin": content,
        "tiny_numbers-1.0.dist-info/METADATA": (
            "Metadata-Version: 2.1\nName: tiny-numbers\nVersion: 1.0\n"
        ),
        "tiny_numbers-1.0.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
        "tiny_numbers-1.0.dist-info/RECORD": "",
    }
    path = folder / "tiny_numbers-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def files_under(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_cache_dir_is_chosen_then_xdg_then_home(monkeypatch):
    monkeypatch.setenv("XATTR_CACHE", "/chosen")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert packages.cache_dir() == Path("/chosen")
    monkeypatch.delenv("XATTR_CACHE")
    assert packages.cache_dir() == Path("/xdg/xattr")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert packages.cache_dir() == Path.home() / ".cache" / "xattr"


def test_an_installed_file_is_found_without_importing_its_package(cache, tmp_path, monkeypatch):
    with zipfile.ZipFile(write_wheel(tmp_path)) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert packages.package_file(TINY) == tmp_path / "site" / "tiny_numbers" / "n.bin"
    assert "tiny_numbers" not in sys.modules
    assert not cache.exists()


def test_an_altered_installed_file_is_refused(cache, tmp_path, monkeypatch):
    with zipfile.ZipFile(write_wheel(tmp_path, b"other numbers")) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(DataError) as caught:
        packages.package_file(TINY)
    text = str(caught.value)
    assert str(tmp_path / "site" / "tiny_numbers" / "n.bin") in text
    assert f"expected sha256 {TINY.sha256}" in text
    assert f"found {hashlib.sha256(b'other numbers').hexdigest()}" in text
    assert "pip install --force-reinstall tiny-numbers==1.0" in text


def test_a_file_is_fetched_once_with_its_wheel(cache, tmp_path):
    wheel = write_wheel(tmp_path / "wheels")
    path = packages.package_file(TINY, progress=False)
    assert path.read_bytes() == CONTENT
    wheel.unlink()
    assert packages.package_file(TINY) == path
    path.unlink()
    assert packages.package_file(TINY).read_bytes() == CONTENT  # the wheel is kept
    kept = [f"tiny-numbers==1.0/{name}" for name in (wheel.name, TINY.path)]
    assert files_under(cache) == kept


def test_pip_shows_its_progress_on_stderr_only(cache, tmp_path, capfd):
    write_wheel(tmp_path / "wheels")
    packages.package_file(TINY)
    out, err = capfd.readouterr()
    assert out == ""
    assert "tiny_numbers" in err


def test_an_altered_wheel_is_refused_and_leaves_no_file(cache):
    folder = cache / TINY.requirement
    folder.mkdir(parents=True)
    wheel = write_wheel(folder, b"other numbers")
    with pytest.raises(DataError, match=r"n\.bin: truncated or altered.*rm -r .*tiny-numbers==1"):
        packages.package_file(TINY)
    wheel.write_bytes(wheel.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"any\.whl: expected a wheel holding tiny_numbers/n\.bin"):
        packages.package_file(TINY)
    assert files_under(folder) == [wheel.name]


def test_an_altered_cached_file_is_refused(cache):
    path = cache / TINY.requirement / TINY.path
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=r"n\.bin: truncated or altered \(12 bytes\).*rm -r "):
        packages.package_file(TINY)


def test_the_error_for_what_pip_cannot_fetch_has_pips_reason(cache):
    with pytest.raises(DataError) as caught:
        packages.package_file(TINY)
    assert "No matching distribution found for tiny-numbers==1.0" in str(caught.value)
    assert str(caught.value).endswith("pip install tiny-numbers==1.0")
    assert files_under(cache) == []


def test_a_cache_that_cannot_be_written_is_an_error(cache):
    cache.write_text("a file where a folder should be")
    with pytest.raises(DataError, match="set XATTR_CACHE to another folder"):
        packages.package_file(TINY)


def test_a_half_written_file_does_not_replace_another(tmp_path):
    target = tmp_path / "folder" / "file"

    def interrupted():
        with packages.replacing(target) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(target.parent.iterdir()) == []
    with packages.replacing(target) as part:
        part.write_text("whole")
    assert [path.read_text() for path in target.parent.iterdir()] == ["whole"]


# A state dict in PyTorch's legacy format, written by hand in opcodes of pickle.

FLOATS = np.arange(100, 124, dtype=np.float32)
LONGS = np.array([7, -(2**40)], np.int64)


def op(value):
    return pickle.dumps(value, 2)[2:-1]


def tensor(kind, key, size, offset, shape, strides):
    storage = [op("storage"), f"ctorch\n{kind}\n".encode(), op(key), op("cpu"), op(size), op(None)]
    view = [b"(" + b"".join(storage) + b"tQ", op(offset), op(shape), op(strides), op(False)]
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + b"".join(view) + hooks + b"tR"


def state_dict(**tensors):
    items = b"".join(op(name) + value for name, value in tensors.items())
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u."


def legacy(state, magic=packages.TORCH_MAGIC, **storages):
    head = [pickle.dumps(value, 2) for value in (magic, 1001, {"little_endian": True})]
    parts = [*head, state, pickle.dumps(list(storages), 2)]
    for array in storages.values():
        parts += [np.int64(array.size).tobytes(), array.tobytes()]
    return b"".join(parts)


def floats(*view, kind="FloatStorage", stored=FLOATS):
    """A file of one tensor; `view` is its offset, shape and strides in 24 floats."""
    return legacy(state_dict(x=tensor(kind, "a", 24, *view)), a=stored)


GOOD = legacy(
    state_dict(
        plain=tensor("FloatStorage", "a", 24, 0, (2, 3), (3, 1)),
        transposed=tensor("FloatStorage", "a", 24, 4, (2, 3, 2), (1, 2, 6)),
        count=tensor("LongStorage", "b", 2, 1, (), ()),
    ),
    b=LONGS,
    a=FLOATS,
)


@pytest.fixture
def pth(tmp_path):
    """A function that writes bytes to a file and reads it as a state dict."""

    def read(content):
        (tmp_path / "some.pth").write_bytes(content)
        return packages.read_torch(tmp_path / "some.pth")

    return read


def test_read_torch_honours_storages_offsets_and_strides(pth):
    read = pth(GOOD)
    assert list(read) == ["plain", "transposed", "count"]
    np.testing.assert_array_equal(read["plain"], [[100, 101, 102], [103, 104, 105]])
    i, j, k = np.indices((2, 3, 2))
    np.testing.assert_array_equal(read["transposed"], 104 + i + 2 * j + 6 * k)
    assert read["transposed"].dtype == np.float32
    assert (read["count"].shape, int(read["count"])) == ((), -(2**40))


def test_read_torch_refuses_a_file_cut_anywhere(pth):
    for length in [*range(0, len(GOOD), 7), len(GOOD) - 1]:
        with pytest.raises(DataError, match=r"some\.pth: expected a state dict"):
            pth(GOOD[:length])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (legacy(state_dict(), magic=12), "12 in place of"),
        (b"PK\x03\x04 as newer files begin", "UnpicklingError"),
        (floats(20, (5,), (1,)), "ValueError"),
        (floats(0, (2,), (24,)), "ValueError"),
        (floats(1, (2,), (-2,)), "ValueError"),
        (floats(0, (2,), (1,), kind="HalfStorage"), "the global torch.HalfStorage"),
        (floats(0, (2,), (1,), stored=FLOATS[1:]), "23 numbers in place of 24 in storage a"),
    ],
    ids=["magic", "zip", "offset", "stride", "backwards", "type", "storage"],
)
def test_read_torch_says_what_it_found(pth, content, reason):
    with pytest.raises(DataError, match=r"some\.pth") as caught:
        pth(content)
    assert reason in str(caught.value)


def test_read_torch_runs_no_code(pth, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    with pytest.raises(DataError, match=r"the global \w+\.mkdir"):
        pth(legacy(pickle.dumps(Evil(), 2)))
    assert not (tmp_path / "made").exists()


def test_read_torch_names_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"gone\.pth.*No such file"):
        packages.read_torch(tmp_path / "gone.pth")


def test_the_classes_are_the_1000_of_imagenet():
    names = photographs.imagenet_classes()
    assert len(names) == 1000
    assert names[0] == "tench, Tinca tinca"
    assert (names[281], names[967]) == ("tabby, tabby cat", "espresso")


@pytest.mark.parametrize("name", photographs.PHOTOGRAPHS)
def test_every_named_photograph_is_there_in_rgb(name):
    image = photographs.photograph(name)
    assert image.mode == "RGB"
    assert min(image.size) >= 300


def test_a_photograph_may_be_a_path_and_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    Image.new("L", (4, 2), 9).save(tmp_path / "side.jpg", exif=exif)
    image = photographs.photograph(tmp_path / "side.jpg")
    assert (image.mode, image.size) == ("RGB", (2, 4))


def test_the_error_for_a_missing_or_broken_photograph_is_one_line_with_the_names(tmp_path):
    whole = packages.package_file(photographs.PHOTOGRAPHS["chelsea"]).read_bytes()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name, reason in [("gone", "no such file"), ("text", "no picture"), ("cut", "no picture")]:
        with pytest.raises(DataError, match=rf"{name}\.png: {reason}") as caught:
            photographs.photograph(str(tmp_path / f"{name}.png"))
        assert str(caught.value).endswith("one of astronaut, camera, chelsea, coffee, rocket")
        assert "\n" not in str(caught.value)


def test_center_crop_is_the_centre_at_7_8_of_the_short_side():
    pixels = np.random.default_rng(0).integers(0, 256, (256, 301, 3), np.uint8)
    crop = photographs.center_crop(Image.fromarray(pixels))  # 224 wide already: no resampling
    assert (crop.shape, crop.dtype) == ((224, 224, 3), np.float32)
    np.testing.assert_array_equal(crop, pixels[16:240, 39:263].astype(np.float32) / 255)


def test_center_crop_resizes_bicubically():
    """At twice the size, Catmull–Rom interpolation overshoots an edge of 128 by ±9 and ±3."""
    edge = np.full((256, 256), 64, np.uint8)
    edge[:, 128:] = 192
    crop = photographs.center_crop(Image.fromarray(edge).convert("RGB"), size=448)
    assert crop.shape == (448, 448, 3)
    profile = np.array([64, 61, 55, 90, 166, 201, 195, 192], np.float32)
    np.testing.assert_array_equal(crop[5, 220:228, 0], profile / np.float32(255))
