"""The notebooks run, on small sizes, and carry no output beside one figure."""

import re
from pathlib import Path

import nbclient
import nbformat
import numpy as np
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
    monkeypatch.setenv("XATTR_NODES", "2")  # as many as samples of SmoothGrad: one program
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
    assert "outside jit (8, 5) inside (8, 5)" in printed
    assert "derivative of the attributions (5, 5)" in printed
    assert "shard_map (16, 5)" in printed
    assert "mesh {'batch': 4, 'node': 2}" in printed
    assert "{'all-reduce': 1, 'all-gather': 0, 'collective-permute': 0, 'all-to-all': 0}" in printed
    assert "interrupted with ['batch-000000.process-0.npz']" in printed
    assert len(re.findall(r"^ +[1248] .*x$", printed, re.MULTILINE)) == 4
    differences = [
        float(word) for word in re.findall(r"difference.* (\S+)$", printed, re.MULTILINE)
    ]
    assert len(differences) == 2
    assert max(differences) < 1e-6


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
    assert "integrated_gradients [0. 0.] [ True  True]" in printed
    assert "gradient_x_input [0.33 0.5 ] [False False]" in printed
    stages = re.findall(r"^(?:trained|output|hidden) +(\S+) (\S+)$", printed, re.M)
    assert stages[:2] == [("1.00", "1.00"), ("0.90", "0.31")]
    assert "two orders           misses symmetry, proportionality\n" in printed
    assert "integrated gradients misses none\n" in printed


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_paths_and_nodes_runs():
    printed = printed_by("paths_and_nodes.ipynb")
    late, corner = re.findall(r"^(?:late second|corner) \[(.*)\]", printed, re.M)
    np.testing.assert_allclose(floats(late), [0.5, 1.5], atol=1e-6)
    np.testing.assert_allclose(floats(corner), [0, 2], atol=1e-6)
    assert "converged True" in printed
    placed, exact = re.findall(r"^(?:concentrated|exact with \d+ nodes) \[(.*)\]", printed, re.M)
    np.testing.assert_allclose(floats(placed), floats(exact), atol=2e-3)
    assert float(re.search(r"^gap (\S+)$", printed, re.M)[1]) < 1e-5
    assert "IncompleteWarning: the attributions sum to" in printed
    assert "compiled for other labels: 0\n" in printed


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_backward_rules_runs():
    printed = printed_by("backward_rules.ipynb")
    assert "near_zero(0.1)" in printed
    assert "as the library's epsilon(0.1): True" in printed
    own, library = re.findall(r"^(?:equal shares|flat\(\) +) \[(.*)\]", printed, re.M)
    np.testing.assert_allclose(floats(own), floats(library), rtol=1e-5)
    assert floats(own)[1] != 0  # of an input that is 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_text_runs(monkeypatch):
    monkeypatch.setenv("XATTR_NODES", "40")
    monkeypatch.setenv("XATTR_PAIRS", "2")
    printed = printed_by("text.ipynb")
    assert "0.5807  A man is playing a guitar" in printed
    gaps = dict(re.findall(r"^(\S.*?) +sum .* gap +(\S+)$", printed, re.M))
    assert abs(float(gaps["integrated gradients"])) < 1e-4
    assert abs(float(gaps["DeepLIFT"])) < 1e-5
    assert abs(float(gaps["gradient x input"])) > 0.1  # the row says something
    gaps = dict(re.findall(r"^(\S.*?) +words .* gap +(\S+)$", printed, re.M))
    assert abs(float(gaps["conserving softmax"])) < 1e-4
    assert abs(float(gaps["AttnLRP"])) > 0.05
    rows = re.findall(r"^(\S.*?) {2,}(.*(?:  \d\.\d{3}){3})$", printed, re.M)
    curves = {name: floats(row) for name, row in rows}
    assert len(curves) == 6
    for name in ("integrated gradients", "DeepLIFT", "LRP"):
        assert curves[name][3] < curves[name][0] - 0.15


def floats(text):
    return np.array(text.split(), float)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_is_listed_and_carries_no_output(path):
    assert f"]({path.name})" in (FOLDER / "README.md").read_text()
    notebook = read(path.name)
    nbformat.validate(notebook)
    if path.stem != "quickstart":  # its figure: test_quickstart_has_ten_cells_and_one_figure
        assert not any(cell.get("outputs") for cell in notebook.cells)
    assert not any(cell.get("execution_count") for cell in notebook.cells)
    pages = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    for link in re.findall(r"\]\((?!http)(.*?)\)", "".join(pages)):
        assert (FOLDER / link).exists(), link
