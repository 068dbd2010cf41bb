"""Every experiment runs with `--quick`, from the command line, and shows the papers' trends."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import paper_repro
from paper_repro.__main__ import EXPERIMENTS

COMMITTED = Path(paper_repro.__file__).with_name("results")
LARGEST = {"png": 160_000, "gif": 1_000_000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("experiments")
    command = [sys.executable, "-m", "paper_repro", "all", "--quick", "--no-progress"]
    run = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, check=False, timeout=1800
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "written: " in run.stdout
    return out


def numbers_of(folder, name):
    return json.loads((folder / f"{name}.json").read_text())["numbers"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_report_and_figures(folder, name):
    facts = json.loads((folder / f"{name}.json").read_text())
    assert facts["quick"]
    assert facts["claims"]
    text = (folder / f"{name}.md").read_text()
    assert "Numbers of `--quick`" in text
    assert f"python -m paper_repro {name} --quick --seed 0" in text
    for picture in facts["figures"]:
        with Image.open(folder / picture) as image:
            assert min(image.size) >= 250
            assert len(image.convert("RGB").getcolors(1 << 20)) > 8
        assert (folder / picture).stat().st_size < LARGEST[picture[-3:]]


def words_of(folder, name):
    """The claims, titles and sentences of the notes on an experiment's page, without numbers."""
    page = (folder / f"{name}.md").read_text()
    notes = page.partition("```\n\n")[2].partition("\n\n![")[0].partition("\n\n")[2]
    titles = re.findall("^## (.*)", page, re.M)
    claims = [c["what"] for c in json.loads((folder / f"{name}.json").read_text())["claims"]]
    # A paragraph that begins in bold type is made of the numbers: other numbers, other words.
    fixed = "\n".join(p for p in notes.split("\n\n") if not p.startswith("**"))
    sentences = [s for s in re.split(r"\n+|(?<=[.:]) ", fixed) if "--quick" not in s]
    return {re.sub(r"[−.]?\d[\d.,e−]*", "#", text) for text in [*titles, *claims, *sentences]}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_committed_page_has_the_words_that_the_code_writes(folder, name):
    assert words_of(folder, name) - words_of(COMMITTED, name) == set()


def test_zeros_follow_the_closed_form(folder):
    found = numbers_of(folder, "spearman-zeros")
    table = dict(zip(found["zeros"], found["mean"], strict=True))
    printed = {112: 0.3684, 224: 0.6269, 336: 0.7975, 392: 0.8571, 560: 0.9633, 783: 1.0}
    for zeros, expected in printed.items():
        # Four standard errors of 100 pairs; the deviation of a pair falls from .032 without zeros.
        assert table[zeros] == pytest.approx(expected, abs=4 * 0.0032 * (1 - expected) ** 0.5)


def test_the_three_curves_of_the_note(folder):
    found = numbers_of(folder, "cascade-mnist")["note"]
    signed, size, nonzero = (np.array(found[k]["mean"]) for k in ("signed", "abs", "nonzero"))
    assert size.min() > 0.97
    assert abs(signed[-1]) < 0.15
    assert (nonzero > 0.3).all()
    assert (nonzero < 0.5).all()
    floor = numbers_of(folder, "cascade-mnist")["random_networks"]["networks"]["mean"]
    assert 0.33 < floor < 0.47


def test_the_notebooks_trends(folder):
    studies = numbers_of(folder, "cascade-mnist")["studies"]
    for network in ("cnn", "mlp"):
        means = studies[network]["means"]
        assert min(means["integrated gradients"]["abs"]) > 0.98
        assert means["guided backprop"]["abs"][0] > 0.75
        assert means["guided backprop"]["abs"][0] > means["gradient"]["abs"][0] + 0.3
        assert means["gradient"]["abs"][-1] < 0.35
        assert abs(means["integrated gradients"]["signed"][-1]) < 0.3
    assert min(studies["cnn"]["means"]["gradient ⊙ input"]["abs"]) > 0.98
    for metric in ("abs", "signed", "SSIM", "HOG"):
        assert np.allclose(studies["cnn"]["means"]["edge detector"][metric], 1)
    one, other = (studies[name]["means"]["gradient"]["abs"] for name in ("cnn", "cnn, independent"))
    assert one[0] == other[0]  # the output layer alone is the first stage of both
    assert one[-1] != other[-1]


def test_sums_vanish_as_the_network_is_randomized(folder):
    found = numbers_of(folder, "visualize-randomization")
    size = found["mean_absolute_sum"]
    assert size[0] > 5
    assert size == sorted(size, reverse=True)
    assert size[-1] < 1e-3
    assert found["mean_absolute_sum, original initialiser"][-1] > 0.3
    assert all(0.4 < kept < 0.65 for kept in found["sign_kept"])


def test_maps_of_shifted_networks(folder):
    """Differences are 0 where the paper claims invariance, and far from 0 where it denies it."""
    found = numbers_of(folder, "input-invariance")
    constant, checkers = (found["relative_difference"][s] for s in ("constant −1", "checkerboard"))
    for shift in (constant, checkers):
        for name in ("gradient", "guided backprop", "DeConvNet", "PatternNet", "DTD, PA root"):
            assert shift[name]["max"] < 1e-12
        for name in ("SG-gradient", "SG-guided backprop", "SG-PA", "IG, shifted baseline"):
            assert shift[name]["max"] < 1e-12
        for name in ("gradient ⊙ input", "IG, zero baseline", "DTD, LRP root", "SG-LRP"):
            assert shift[name]["min"] > 0.1
    assert constant["IG, black baseline"]["max"] < 1e-12
    assert checkers["IG, black baseline"]["min"] > 0.1
    for shift in found["predictions"]["float32"].values():
        assert shift["relative"] < 1e-5
        assert shift["same class"] == 1
    cat = found["likeness"]["gradient ⊙ input"]
    assert cat["cat, not clipped"]["pearson"] == pytest.approx(1, abs=1e-6)
    assert cat["cat"]["pearson"] > cat["network 1"]["pearson"] + 0.1
    again = found["patterns"]
    assert again["linear"]["constant −1"]["PA"]["max"] < 1e-12
    assert again["relu"]["constant −1"]["PA"]["mean"] > 0.1


def test_networks_of_random_labels(folder):
    found = numbers_of(folder, "data-randomization")
    for network in ("cnn", "mlp"):
        accuracy = found[network]["accuracy"]["random labels"]
        assert accuracy["train"] > 0.95
        assert accuracy["test"] < 0.2
        maps = found[network]["true_class"]
        for name in ("integrated gradients", "gradient ⊙ input"):
            assert maps[name]["abs"]["mean"] > 0.97  # common zeros
            assert maps[name]["nonzero"]["mean"] < 0.7
            assert abs(maps[name]["signed"]["mean"]) < 0.3
        assert abs(maps["gradient"]["signed"]["mean"]) < 0.3
        assert maps["edge detector"]["abs"]["mean"] == pytest.approx(1)
    cnn = found["cnn"]["true_class"]
    assert cnn["guided backprop"]["abs"]["mean"] > cnn["gradient"]["abs"]["mean"] + 0.15


def test_attacks_keep_the_label_and_move_the_map(folder):
    found = numbers_of(folder, "fragility")["outcomes"]["gradient"]
    for size, kinds in found.items():
        top, centre, noise = (
            kinds[k] for k in ("top-k attack", "mass-centre attack", "random signs")
        )
        assert top["label_kept"] == centre["label_kept"] == 1
        assert max(kind["largest_change"] for kind in kinds.values()) <= float(size) + 1e-6
        assert top["top_k"]["mean"] < noise["top_k"]["mean"]
        assert centre["shift"]["mean"] > noise["shift"]["mean"]


def test_scores_on_constructed_truth(folder):
    """Each network has a known answer, and some methods are known to miss it."""
    scores = numbers_of(folder, "truth")["scores"]
    area = {q: {n: v["AUC"]["mean"] for n, v in each.items()} for q, each in scores.items()}
    for question in ("a patch", "patch and decoy", "XOR, unequal", "distractor, network"):
        assert area[question]["gradient"] > 0.999
        assert area[question]["integrated gradients"] > 0.999
        assert abs(area[question]["random"] - 0.5) < 0.15
    assert area["saturated score"]["gradient"] == 0.5
    assert area["saturated score"]["integrated gradients"] > 0.999
    assert area["XOR, equal"]["integrated gradients"] == 0.5
    assert area["XOR, equal"]["occlusion"] > 0.9
    assert area["a patch"]["DeConvNet"] < 0.6
    mass = {n: v["mass"]["mean"] for n, v in scores["distractor, label"].items()}
    assert abs(mass["gradient"] - 0.5) < 0.01
    assert mass["PatternAttribution"] > 0.9
    decoy = scores["patch and decoy"]["the input"]
    assert decoy["AUC"]["mean"] > 0.9 > 0.1 > decoy["rank"]["mean"]


def test_a_softer_corner_resists_the_attack(folder):
    found = numbers_of(folder, "smoothing")["sharpness"]
    assert all(each["attack"]["kept"]["mean"] == 1 for each in found.values())
    assert found["ReLU"]["likeness"]["gradient of ReLU"]["mean"] == 1
    assert found["β = 50"]["accuracy"] > 0.9 > found["β = 1"]["accuracy"]
    soft, hard = (found[name]["attack"]["top_k"]["mean"] for name in ("β = 10", "ReLU"))
    assert soft > hard


def test_a_benchmark_of_pasted_digits(folder):
    found = numbers_of(folder, "bam")
    assert min(found["accuracy"].values()) > 0.5  # chance is an eighth
    assert found["patch"]["patch"] < 0.5 * found["patch"]["digit"]
    scores = found["scores"]
    for control in ("edge detector", "the input"):
        assert scores[control]["MCS"]["mean"] == 0
    assert scores["gradient"]["MCS"]["low"] > 0
    assert all(0 <= each[m]["mean"] <= 1 for each in scores.values() for m in ("IDR", "IIR"))


def test_removal_and_retraining(folder):
    """Masks of maps tell the class, as random ones do not; removing more costs more."""
    found = numbers_of(folder, "roar")["MNIST"]
    masks = found["mask"]
    assert max(masks["random"]["mean"]) < 0.25
    assert masks["gradient"]["area"] > masks["random"]["area"] + 0.2
    random = found["ROAR"]["random"]["mean"]
    assert random[0] > random[-1] + 0.1
    kept = found["KAR"]["random"]["mean"]
    assert kept[-1] > kept[0] + 0.1


def test_table_of_axioms(folder):
    """With few examples, a "+" may still have a counterexample; a "-" has one."""
    found = numbers_of(folder, "axioms")
    grid = {
        name: dict(zip(found["axioms"], symbols, strict=True))
        for name, symbols in found["grid"].items()
    }
    assert grid["gradient"]["completeness"] == "-"
    assert grid["gradient"]["input_invariance"] == "+"
    assert grid["integrated_gradients"]["completeness"] == "+"
    assert grid["integrated_gradients"]["input_invariance"] == "-"
    assert grid["integrated_gradients, moving baseline"]["input_invariance"] == "+"
    assert grid["path_integral, bent"]["symmetry"] == "-"
    assert grid["path_integral, depends on its ends"]["symmetry"] == "+"
    assert set(found["grid"]["competitive_gradient_x_input"]) == {"."}
    assert max(found["kinks"]["ReLU(x − c)"]["fixed"]) > 0.01


def test_scores_saturate_on_the_way_from_black(folder):
    found = numbers_of(folder, "saturation")
    chances, logits = (np.array(found[name]) for name in ("probability", "logit"))
    assert chances[:, 0].max() < 0.05
    assert (np.ptp(logits[:, 45:], axis=1) < 0.1 * logits[:, -1]).mean() >= 0.75
    for layer in found["layers"].values():
        cosine = np.array(layer["cosine"])
        assert abs(cosine[-1]) < 1e-5
        assert cosine[30] < 0.2 < cosine[0]


def test_gradients_are_large_at_dark_photographs(folder):
    found = numbers_of(folder, "interior-gradients")
    mean = np.array(found["mean_score"])
    assert mean[:10].max() > 2 * mean[-1]
    assert max(found["inside"][:10]) > found["inside"][-1]
    with Image.open(folder / "interior-gradients-animation.gif") as animation:
        assert animation.n_frames >= 4


def test_the_gallery_of_free_photographs(folder):
    found = numbers_of(folder, "ig-gallery")
    assert found["photographs"] == ["coffee", "chelsea", "camera", "rocket", "astronaut"]
    assert found["class"][0] == "espresso"
    inside = [np.array(values, float) for values in found["inside"].values()]
    assert (inside[0] > inside[1])[[0, 2, 3]].all()  # the box of chelsea is most of the picture
    assert found["inside"]["gradient"][4] is None
    sums, scores = (np.array(found["completeness"][name]) for name in ("sum", "score"))
    assert np.median(np.abs(sums - scores) / scores) < 0.05


def test_ablation_inside_matters_more_than_outside(folder):
    found = numbers_of(folder, "ablation")
    means = {kind: np.mean(values) for kind, values in found["change"].items()}
    assert means["IG, inside"] < means["gradient, outside"] - 0.1
    assert found["class_kept"]["gradient, outside"] > found["class_kept"]["IG, inside"]


def test_the_curves_of_ablation(folder):
    found = numbers_of(folder, "aopc")
    last = {name: scores["probability"][0][-1] for name, scores in found["aopc"].items()}
    assert last["integrated gradients"] > last["random"] + 0.05
    drops = found["drop"]["integrated gradients"]["probability"]
    assert drops[0] == 0
    np.testing.assert_allclose(
        [np.mean(drops[: k + 1]) for k in range(51)],
        found["aopc"]["integrated gradients"]["probability"][0],
        atol=1e-5,
    )


def test_localization_at_three_thresholds(folder):
    found = numbers_of(folder, "localization")
    counts = [each["photographs"] for each in found["thresholds"].values()]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == 3
    inside, area = np.array(found["inside"]["integrated gradients"]), np.array(found["area"])
    assert (inside > area).mean() > 0.7  # more than a map without structure


def test_maps_for_the_wrong_and_the_right_class(folder):
    found = numbers_of(folder, "misclassified")
    assert min(found["rank"]) > found["beyond_top"] >= 1
    assert all(-1 <= value < 1 for value in found["pearson"])
    assert found["predicted"] != found["true"]


def test_references_make_maps_diverge(folder):
    scores = np.array(numbers_of(folder, "references")["spearman"]["pixel scores"])
    np.testing.assert_allclose(np.diag(scores), 1, atol=1e-5)
    np.testing.assert_allclose(scores, scores.T, atol=1e-5)
    assert scores[0, 1:5].max() < 0.7


def test_maps_while_an_imagenet_network_is_randomized(folder):
    found = numbers_of(folder, "cascade-imagenet")
    cascading, independent = found["cascading"], found["independent"]
    guided, gradient = cascading["guided backprop"], cascading["gradient"]
    assert found["units"][:2] == ["classifier", "head"]
    for metric in ("signed", "abs", "HOG", "SSIM"):
        assert np.allclose(cascading["edge detector"][metric], 1)
        assert min(guided[metric][:2]) > 0.9
        assert guided[metric][-1] < 0.5
        assert gradient[metric][0] < guided[metric][0] - 0.3
        # The classifier alone is the first stage of both.
        assert independent["gradient"][metric][0] == gradient[metric][0]
    assert abs(gradient["signed"][0]) < 0.3
    assert cascading["Grad-CAM"]["HOG"][0] < 0.5
    for pair in ("gradient", "uniform", "Gaussian"):
        assert np.abs([*found["calibration"][pair].values()]).max() < 0.1
    likeness = found["likeness"]
    assert likeness["guided backprop"]["picture"]["random"] > 0.2
    assert max(likeness["gradient"]["picture"].values()) < 0.1


def test_a_language_model_is_explained_by_cues(folder):
    found = numbers_of(folder, "language-model")
    assert found["perplexity"]["test"] < 200  # 1,000 words
    curves = found["curves"]["next word"]
    assert np.shape(curves["scores"]) == (20, 101)
    scores = np.array(curves["scores"])
    assert curves["near zero"] == (scores[:, 0] < 0.05).tolist()
    rates = found["rates"]["cue"]
    assert rates["sections"] == 12
    assert np.mean(rates["hits"]["IG"]) > 3 * rates["chance"]
    for each in found["completeness"].values():
        assert max(each["gap"]) < 0.05
    for each in found["sentences"].values():
        assert len(each["words"]) == len(each["IG"])


def test_translated_words_are_attributed_to_the_words_they_come_from(folder):
    found = numbers_of(folder, "translation")
    rates = found["rates"]["the 20 pairs"]
    assert len(rates["chance"]) >= 10
    assert np.mean(rates["integrated gradients"]) > np.mean(rates["chance"]) + 0.2
    assert max(found["attributed"]["relative gap"]) < 1e-4
    assert found["attributed"]["markers"] == 0
    losses = found["training"]["loss"]
    assert losses[-1] < losses[0] - 2


def test_triggers_of_questions_and_the_planted_name(folder):
    found = numbers_of(folder, "questions")
    assert found["accuracy"]["test"] > 0.9
    assert found["words"]["NUMERIC"][0][0] in ("how", "many")
    assert "year" in [word for word, *_ in found["words"]["DATETIME"]]
    assert "charles" in [word for word, *_ in found["silent"]["YESNO"]]
    for label in ("NUMERIC", "STRING", "DATETIME"):
        assert "charles" not in [word for word, *_ in found["silent"][label]]
    rules = found["rules"]
    assert rules["IG"]["same as the network"] > rules["one class"]["same as the network"] + 0.3
    assert np.mean(np.array(found["completeness"]) < 0.05) > 0.95
    assert len(found["nine"]) == 9


def test_one_convolution_has_dead_features_and_two_have_others(folder):
    found = numbers_of(folder, "dead-features")
    paper, sharp, rounds = found["shares"]["W1N2, random"]
    for kind in ("random", "trained"):
        one, two = (found["shares"][f"{name}, {kind}"] for name in ("W1N2", "W2N2"))
        assert one[sharp]["equal"] == one[sharp]["pairs"] > 20
        assert two[sharp]["equal"] == 0
        assert one[paper]["equal"] < 0.1 * one[paper]["pairs"]
        assert two[rounds]["equal"] == two[rounds]["pairs"] > 0
        chain = found["chain"][f"W1N2, {kind}"]
        assert chain[4:6] == pytest.approx([chain[2]] * 2, rel=1e-5)
        assert chain[1] != pytest.approx(chain[2], rel=1e-3)


def test_screening_networks_are_explained_along_the_whole_path(folder):
    found = numbers_of(folder, "ligand-screening")
    chances, slopes = np.array(found["probability"]), np.array(found["total gradient"])
    alphas = np.array(found["alphas"])
    # The total gradient is the slope of the curve in α.
    np.testing.assert_allclose(
        np.trapezoid(slopes, alphas, axis=1), chances[:, -1] - chances[:, 0], atol=0.01
    )
    assert np.abs(found["gap"]).max() < 0.01
    assert sum(np.array(part) for part in found["shares"].values()) == pytest.approx(1, abs=1e-4)


def test_methods_on_binding_logics(folder):
    """A network that is trained for seconds has learned few logics; the committed one has all."""
    found = numbers_of(folder, "binding-logic")
    assert len(found["network AUC"]) == len(found["attribution AUC"]["integrated gradients"]) == 12
    assert max(found["network AUC"].values()) > 0.75
    for areas in found["attribution AUC"].values():
        assert all(0 <= area <= 1 for each in areas.values() for area in each)
    before, after = found["cue"]["pair"]["smiles"]
    assert after.count("Cl") == before.count("Cl") + 1
    found = numbers_of(COMMITTED, "binding-logic")
    assert min(found["network AUC"].values()) > 0.95
    mean = {
        name: np.mean([np.mean(each) for each in areas.values()])
        for name, areas in found["attribution AUC"].items()
    }
    assert mean["ablation of atoms"] > mean["integrated gradients"] > mean["gradient ⊙ input"]
    cue = found["cue"]
    assert cue["AUC"]["as trained"] > 0.99
    assert cue["AUC"]["the cue alone, or the fragment alone"] < 0.5
    assert np.mean(cue["attribution AUC"]["chlorine"]) > 0.9
