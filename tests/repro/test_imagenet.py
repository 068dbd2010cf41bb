"""The labelled photographs, and EfficientNet-Lite in its three sizes."""

import jax
import numpy as np
import pytest
from PIL import Image

from paper_repro.data import imagenet, photographs
from paper_repro.data.packages import DataError
from paper_repro.networks import efficientnet


@pytest.fixture(scope="module")
def chosen():
    return imagenet.load(224, progress=False)


def test_the_photographs_of_packages(chosen):
    assert len(chosen) == 25
    assert [p.name for p in chosen if p.is_free] == [p.name for p in chosen[:5]]
    assert {p.name for p in chosen[:5]} == {*photographs.PHOTOGRAPHS}
    for each in chosen:
        assert each.image.shape == (224, 224, 3)
        assert each.image.dtype == np.float32
        assert 0 <= each.image.min() < each.image.max() <= 1
        assert each.boxes.min(initial=0) >= 0
        assert each.boxes.max(initial=0) <= 224
        assert (each.boxes[:, 2:] - each.boxes[:, :2] >= 1).all()
        assert bool(each.mask.any()) == bool(len(each.boxes))
    np.testing.assert_array_equal(
        chosen[0].image, photographs.center_crop(photographs.photograph("coffee"))
    )


def test_boxes_move_with_the_crop(chosen):
    """The cup of coffee, 600 × 400: a square of 350 is cut out at (125, 25)."""
    (box,) = next(p for p in chosen if p.name == "coffee").boxes
    corners = np.array([0.28 * 600, 0.04 * 400, 0.71 * 600, 0.78 * 400])
    expected = (corners - [125, 25, 125, 25]) * 224 / 350
    np.testing.assert_allclose(box, np.clip(expected, 0, 224), atol=1e-9)


def test_a_folder_with_a_table(tmp_path):
    pixels = np.zeros((10, 10, 3), np.uint8)
    pixels[5:] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    table = tmp_path / "labels.csv"
    head = "file,class_index,width,height,boxes\n"
    table.write_text(head + "a.png,7,100,50,0 25 100 50;10 0 20 10\n")
    (found,) = imagenet.load(40, tmp_path)
    assert (found.name, found.label, found.is_free) == ("a", 7, False)
    np.testing.assert_allclose(found.boxes, [[0, 20, 40, 40], [4, 0, 8, 8]])
    assert found.mask[20:].all()
    assert found.mask[:20].sum() == 4 * 8
    assert found.image[30:].mean() > 0.99 > 0.01 > found.image[:10].mean()
    table.write_text(head + "a.png,seven,100,50,\n")
    with pytest.raises(DataError, match=r"labels\.csv: expected the columns file, class_index"):
        imagenet.load(40, tmp_path)


def test_the_validation_files(tmp_path):
    name = "ILSVRC2012_val_00000001"
    Image.new("RGB", (256, 256), "red").save(tmp_path / f"{name}.JPEG")
    (tmp_path / "boxes").mkdir()
    box = "<bndbox><xmin>16</xmin><ymin>16</ymin><xmax>128</xmax><ymax>240</ymax></bndbox>"
    xml = tmp_path / "boxes" / f"{name}.xml"
    xml.write_text(f"<annotation><object>{box}</object></annotation>")
    (found,) = imagenet.load(224, tmp_path, progress=False)
    assert found.label == 65  # a sea snake, as in the development kit of ILSVRC2012
    np.testing.assert_allclose(found.boxes, [[0, 0, 112, 224]])
    xml.write_text("<annotation>")
    with pytest.raises(DataError, match=f"{name}.xml: expected boxes of ImageNet in XML"):
        imagenet.load(224, tmp_path, progress=False)


def test_a_folder_of_neither_form(tmp_path):
    with pytest.raises(DataError, match=r"expected labels\.csv beside pictures, or ILSVRC2012_val"):
        imagenet.load(224, tmp_path)


def test_blocks_of_each_size():
    """Tan & Le 2019, with the rounding of the Lite variants: depth and width of each stage."""
    widths = {
        "lite0": [16, *[24] * 2, *[40] * 2, *[80] * 3, *[112] * 3, *[192] * 4, 320],
        "lite1": [16, *[24] * 3, *[40] * 3, *[80] * 4, *[112] * 4, *[192] * 5, 320],
        "lite2": [16, *[24] * 3, *[48] * 3, *[88] * 4, *[120] * 4, *[208] * 5, 352],
    }
    for variant, expected in widths.items():
        assert [features for features, *_ in efficientnet.blocks(variant)] == expected


@pytest.mark.parametrize("variant", ["lite1", "lite2"])
def test_larger_networks_know_the_coffee(variant):
    """All published tensors are used, and the picture is an espresso."""
    size = efficientnet.VARIANTS[variant].size
    params = efficientnet.load(variant=variant, progress=False)
    image = photographs.center_crop(photographs.photograph("coffee"), size)
    network = jax.jit(lambda image: efficientnet.network(image, params, variant=variant))
    scores = jax.nn.softmax(network(image))
    assert int(scores.argmax()) == 967
    assert float(scores.max()) > 0.5
