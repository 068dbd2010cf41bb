"""The notebooks run, on small sizes, and carry no output beside one figure."""

from pathlib import Path

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"


def read(name):
    return nbformat.read(FOLDER / name, as_version=4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of ipykernel's own making
def test_quickstart_runs(monkeypatch):
    monkeypatch.setenv("XATTR_STEPS", "4")
    notebook = read("quickstart.ipynb")
    resources = {"metadata": {"path": str(FOLDER)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    printed = "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stdout"
    )
    assert "espresso: 0.951" in printed
    assert "kernel compiled: 0" in printed


def test_quickstart_has_ten_cells_and_one_figure():
    notebook = read("quickstart.ipynb")
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert len(notebook.cells) == 10
    assert [list(output["data"]) for output in outputs] == [["image/png"]]
    assert all(cell.get("execution_count") is None for cell in notebook.cells)
    assert (FOLDER / "quickstart.ipynb").stat().st_size < 600_000
