"""The files that an experiment writes, the committed ones, and the command line."""

import ast
import json
import re
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import paper_repro
from paper_repro import __main__, experiments
from paper_repro.data import photographs
from paper_repro.report import results
from paper_repro.report.results import Claim, Result, Setting, Table, UsageError

COMMITTED = Path(paper_repro.__file__).with_name("results")


@pytest.fixture
def result():
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1])
    other = Figure(figsize=(2, 1))
    other.subplots().plot([1, 0])
    numbers = {"mean": np.array([1 / 3, np.nan]), "n": np.int64(2), "deep": {"x": [True, 1e-20]}}
    claims = [
        Claim("ρ of |A|", ".5", ".499", True),
        Claim("second", "1", "2", False, "a reason"),
        Claim("third", "shown", "3", None),
    ]
    tables = [Table("All", ["a", "b"], [["1", "|2|"]])]
    figures, moving = {"": figure, "more": figure}, {"moving": [figure, other]}
    return Result("A title", figures, numbers, claims, tables, ["A note."], moving)


def test_written_files(result, tmp_path):
    written = results.write("name", result, Setting(seed=3), 1.25, tmp_path)
    names = ["name.png", "name-more.png", "name-moving.gif", "name.json", "name.md"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    with Image.open(written[1]) as picture:
        assert picture.size == (200, 100)
    with Image.open(written[2]) as animation:
        assert (animation.n_frames, animation.size) == (2, (200, 100))
    facts = json.loads((tmp_path / "name.json").read_text())
    assert facts["command"] == "python -m paper_repro name --seed 3"
    assert facts["numbers"] == {"mean": [0.333333, None], "n": 2, "deep": {"x": [True, 1e-20]}}
    assert facts["claims"][1]["why"] == "a reason"
    assert facts["versions"].keys() >= {"python", "jax", "xattr-jax"}
    text = (tmp_path / "name.md").read_text()
    assert "--quick" not in text
    assert r"| ρ of \|A\| | .5 | .499 | agrees |  |" in text
    assert "| second | 1 | 2 | **differs** | a reason |" in text
    assert "| third | shown | 3 | not stated |  |" in text
    assert "![name-more.png](name-more.png)" in text
    assert "![name-moving.gif](name-moving.gif)" in text
    assert "## All\n\n| a | b |\n| --- | --- |\n| 1 | \\|2\\| |" in text
    assert "`--quick`" in (
        results.write("name", result, Setting(quick=True), 1, tmp_path)[4].read_text()
    )


def test_the_command_names_the_options_that_decide_the_result(result, tmp_path):
    folders = {f"{data}_dir": Path(f"/some/where/{data}") for data in ("imagenet", "ptb", "wtq")}
    results.write("name", result, Setting(True, 2, network="lite2", **folders), 1, tmp_path)
    facts = json.loads((tmp_path / "name.json").read_text())
    assert facts["command"] == (
        "python -m paper_repro name --imagenet-dir imagenet --ptb-dir ptb --wtq-dir wtq "
        "--network lite2 --quick --seed 2"
    )


def test_numbers_as_the_papers_write_them():
    written = [results.decimal(v) for v in (0.4236, -0.0031, 0.99996, -1e-9, 12.5, -1.0, np.nan)]
    assert written == [".424", "−.003", "1.000", ".000", "12.500", "−1.000", "undefined"]


def test_interval_is_the_normal_one():
    values = np.array([1.0, 2.0, 3.0, 4.0, np.nan])
    mean, low, high = results.interval(values)
    half = 1.959963985 * np.std(values[:4], ddof=1) / 2
    assert [mean, low, high] == pytest.approx([2.5, 2.5 - half, 2.5 + half])


@pytest.mark.parametrize("arguments", [["--seed", "-1"], ["--out", "FILE/folder"]])
def test_bad_options_are_errors_before_the_work(arguments, capsys, tmp_path):
    (tmp_path / "file").touch()
    arguments = [a.replace("FILE", str(tmp_path / "file")) for a in arguments]
    assert __main__.main(["spearman-zeros", "--no-progress", *arguments]) == 2
    assert f"paper_repro: {arguments[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["spearman-zeros", "demo"])
def test_a_folder_that_cannot_be_written_to_is_noticed_before_the_work(command, capsys):
    assert __main__.main([command, "--no-progress", "--out", "/proc"]) == 2
    assert "paper_repro: --out /proc: cannot be written to" in capsys.readouterr().err


def test_a_gallery_needs_all_results(tmp_path):
    with pytest.raises(UsageError, match="python -m paper_repro spearman-zeros"):
        results.gallery(tmp_path, ["spearman-zeros"])


def test_training_checks_the_seed(capsys):
    assert __main__.main(["train", "--quick", "--seed", "-1"]) == 2
    assert "--seed" in capsys.readouterr().err


@pytest.mark.parametrize("name", __main__.EXPERIMENTS)
def test_committed_results_are_full_runs(name):
    facts = json.loads((COMMITTED / f"{name}.json").read_text())
    seen = name in __main__.PHOTOGRAPHIC | __main__.BOTH
    folder = " --imagenet-dir imagenet_val" if seen else ""
    asked = name in {"questions": "", **__main__.BOTH}
    folder += " --wtq-dir wikitablequestions" if asked else ""
    assert facts["command"] == f"python -m paper_repro {name}{folder} --seed 0"
    assert not facts["quick"]
    assert facts["seconds"] < 30 * 60
    text = (COMMITTED / f"{name}.md").read_text()
    assert results._claims(Claim(**claim) for claim in facts["claims"]) in text
    for picture in facts["figures"]:
        assert f"]({picture})" in text
        limit = 1_000_000 if picture.endswith(".gif") else 160_000
        assert (COMMITTED / picture).stat().st_size < limit


def test_the_gallery_is_that_of_the_results():
    page = COMMITTED.with_name("README.md").read_text()
    assert page == results.gallery(COMMITTED, __main__.EXPERIMENTS)
    for link in re.findall(r"\]\((results/[^)]+)\)", page):
        assert (COMMITTED.parent / link).is_file()


def test_an_experiment_is_one_module_and_one_line(monkeypatch, tmp_path):
    """The module that the docstring of `paper_repro.experiments` shows, with another network."""
    code = re.search(r"^    def run.*?(?=\n\n)", experiments.__doc__, re.M | re.S)[0]
    module = types.ModuleType("paper_repro.experiments.my_experiment")
    for name in ("Setting", "Claim", "Result", "decimal"):
        setattr(module, name, getattr(results, name))
    module.photographs = photographs
    module.efficientnet = types.SimpleNamespace(
        load=lambda progress: np.array([3.0, 2.0]), network=lambda image, params: params
    )
    module._draw = lambda image: Figure(figsize=(2, 1))
    exec(textwrap.dedent(code), vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(__main__.EXPERIMENTS, "my-experiment", "what it shows")
    arguments = ["my-experiment", "--quick", "--no-progress", "--out", str(tmp_path)]
    assert __main__.main(arguments) == 0
    facts = json.loads((tmp_path / "my-experiment.json").read_text())
    assert facts["numbers"] == {"largest logit": 3}
    assert facts["claims"][0]["agrees"] is False


def test_every_module_of_experiments_is_one_or_says_that_it_is_not():
    for path in Path(experiments.__file__).parent.glob("*.py"):
        name = path.stem.replace("_", "-")
        first = ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
        if name != "--init--":
            assert first.startswith("Not an experiment: ") != (name in __main__.EXPERIMENTS), name
