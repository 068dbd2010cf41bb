"""The notebooks run, on small sizes, and carry no output beside one figure."""

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"


@pytest.fixture(autouse=True)
def _few_optimizations(monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiling takes most of the time


def read(name):
    return nbformat.read(FOLDER / name, as_version=4)


def printed_by(name):
    notebook = read(name)
    resources = {"metadata": {"path": str(FOLDER)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    return "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stdout"
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of ipykernel's own making
def test_quickstart_runs(monkeypatch):
    monkeypatch.setenv("XATTR_STEPS", "2")  # as many as samples of SmoothGrad: one program
    printed = printed_by("quickstart.ipynb")
    assert "espresso: 0.951" in printed
    assert "kernel compiled: 1" in printed


def test_quickstart_has_ten_cells_and_one_figure():
    notebook = read("quickstart.ipynb")
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert len(notebook.cells) == 10
    assert [list(output["data"]) for output in outputs] == [["image/png"]]
    assert all(cell.get("execution_count") is None for cell in notebook.cells)
    assert (FOLDER / "quickstart.ipynb").stat().st_size < 600_000


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scaling_runs_on_eight_devices_of_the_cpu():
    printed = printed_by("scaling_tpu.ipynb")
    assert " on 8 x cpu" in printed
    assert "mesh {'batch': 4, 'step': 2}" in printed
    assert "{'all-reduce': 1, 'all-gather': 0, 'collective-permute': 0, 'all-to-all': 0}" in printed
    assert "interrupted with ['batch-000000.process-0.npz']" in printed
    assert len(re.findall(r"^ +[1248] .*x$", printed, re.MULTILINE)) == 4
    differences = [
        float(word) for word in re.findall(r"difference.* (\S+)$", printed, re.MULTILINE)
    ]
    assert len(differences) == 2
    assert max(differences) < 1e-6


def test_scaling_carries_no_output():
    notebook = read("scaling_tpu.ipynb")
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_verify_your_method_runs(monkeypatch):
    monkeypatch.setenv("XATTR_EXAMPLES", "10")
    printed = printed_by("verify_your_method.ipynb")
    assert len(re.findall(r"^\w+ +10 hold", printed, re.MULTILINE)) == 8
    missed = re.findall(r"^forgets_the_baseline does not keep (\w+)", printed, re.MULTILINE)
    assert missed[0] == "completeness"
    assert "zero_at_baseline" in missed
    assert "sum 1.00, change 0.90" in printed  # of the counterexample, pasted
    two, straight = re.findall(r"^(?:two orders|straight) +\[(\S+) +(\S+)\]", printed, re.MULTILINE)
    assert two[0] != two[1]
    assert straight[0] == straight[1]
    assert "the sign changes" in printed
    assert "two orders           misses symmetry, proportionality\n" in printed
    assert "integrated gradients misses none\n" in printed


def test_verify_your_method_carries_no_output():
    notebook = read("verify_your_method.ipynb")
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
