"""The README's examples run when pasted."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

TEXT = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_example_runs(index, capsys):
    # As a user has it: promotion is not strict.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(BLOCKS[index], f"README example {index}", "exec"), {"__name__": "readme"})
    stated = re.findall(r"print\(.*?\)  # \[(.*?)\]", BLOCKS[index])
    printed = re.findall(r"^\[(.*?)\]$", capsys.readouterr().out, re.M)
    for left, right in zip(stated, printed if stated else [], strict=True):
        np.testing.assert_allclose(
            np.fromstring(right, sep=" "), np.fromstring(left, sep=" "), atol=1e-6
        )


def test_results_are_stated_and_checked():
    assert len(re.findall(r"print\(.*?\)  # (\[.*?\])", TEXT)) == 2


def test_pictures_are_there():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", TEXT):
        assert (Path(__file__).parents[1] / path).is_file(), path


def test_first_example_is_short():
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 12
