"""Weights in the format safetensors, read with NumPy.

The file has the length of its header in eight bytes, the header in JSON, and the raw numbers of the
tensors, whose types, shapes and places the header gives.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from paper_repro.data.packages import DataError

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "U8": "u1",
    "BOOL": "?",
}


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Read every tensor of a file.

    Raises:
        DataError: if the file is missing, truncated, altered, or has numbers of another type.
    """
    try:
        data = Path(path).read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        return {name: _tensor(fields, data, start) for name, fields in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: expected weights in the format safetensors, found: {error!r}. "
            "To mend it: fetch the file anew"
        ) from error


def _tensor(fields: dict[str, Any], data: bytes, start: int) -> np.ndarray:
    dtype = np.dtype(DTYPES[fields["dtype"]])
    first, last = fields["data_offsets"]
    count = math.prod(fields["shape"])
    if last - first != count * dtype.itemsize or start + last > len(data):
        raise ValueError(f"{len(data)} bytes, and a tensor of {count} at {first} to {last}")
    return np.frombuffer(data, dtype, count, start + first).reshape(fields["shape"]).copy()
