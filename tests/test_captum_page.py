"""The page for those who come from captum: what it says to be equal is equal."""

import re
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

PAGE = (Path(__file__).parents[1] / "notebooks" / "coming_from_captum.md").read_text()
OURS, THEIRS = re.findall(r"```python\n(.*?)```", PAGE, re.S)
ROWS = re.findall(r"^\| `(.+?)` \| `(.+?)` \| (\S+) \|$", PAGE, re.M)


@pytest.fixture(scope="module", name="ours")
def _ours():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        names = {}
        exec(OURS, names)
        yield names


@pytest.fixture(scope="module", name="theirs")
def _theirs(ours):
    pytest.importorskip("captum")
    names = dict(ours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(THEIRS, names)
        names["torch"].manual_seed(0)
        yield names


def channels_last(tensor):
    array = tensor.detach().numpy()
    return array[0].transpose(1, 2, 0) if array.ndim == 4 else array


def test_rows_are_read():
    lines = PAGE[PAGE.index("|---|") :].splitlines()[1:]
    assert len(ROWS) == sum(line.startswith("|") for line in lines) >= 12


@pytest.mark.parametrize("row", ROWS, ids=[row[1][:40] for row in ROWS])
def test_ours_runs(row, ours):
    result = np.asarray(eval(row[1], dict(ours)))
    assert np.isfinite(result).all()
    assert np.abs(result).max() > 0


@pytest.mark.parametrize("row", ROWS, ids=[row[0].partition("(")[0] for row in ROWS])
def test_both_agree(row, ours, theirs):
    left, right, tolerance = row
    with warnings.catch_warnings():  # of hooks and of gradients that captum asks for
        warnings.simplefilter("ignore")
        captum = channels_last(eval(left, dict(theirs))).squeeze()
    result = np.asarray(eval(right, dict(ours))).squeeze()
    assert captum.shape == result.shape
    difference = np.abs(captum - result).max() / np.abs(result).max()
    assert difference < float(tolerance)
