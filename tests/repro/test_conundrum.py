"""The measures of the conundrum on a linear classifier, whose answers are known, and its text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xattr
from paper_repro.experiments import conundrum, judgement, methods, subjects
from paper_repro.experiments.conundrum import Judged
from paper_repro.networks import question_cnn
from paper_repro.report.results import Setting

W = np.arange(1.0, 37.0, dtype=np.float32).reshape(6, 6, 1)


def model(x, params):
    """Two classes: the logit of the first is linear."""
    return jnp.stack([jnp.sum(params * x), jnp.sum(x) * 0])


@pytest.fixture(scope="module")
def linear():
    x = np.random.default_rng(0).uniform(0.5, 1, (3, 6, 6, 1)).astype(np.float32)
    return methods.Subject(
        "linear", "A test.", model, W / 600, x, np.zeros(3, np.int32),
        xattr.groups.grid(x[0], (2, 2)), {"all layers": -W[::-1] / 600}, cells=(3, 3),
        bounds=(0.0, 1.0), background=x[1:],
    )  # fmt: skip


def measured(it, name):
    return judgement._judge(it, name, methods.explainer(it, "gradient"), 0)


SHARES = ("integrated gradients", "LIME", "SHAP (kernel)", "ablation", "DeepLIFT", "LRP-Z")


@pytest.mark.parametrize("name", [*SHARES, "gradient", "gradient ⊙ input"])
def test_what_is_right_for_a_linear_function_leaves_nothing(linear, name):
    """Maps of groups too: whole groups are left out. Slopes are multiplied by x."""
    assert measured(linear, name)["infidelity"].max() < 2e-3


def test_controls_leave_more(linear):
    for name in ("random", "input", "edge detector"):
        assert measured(linear, name)["infidelity"].min() > 0.01


def test_the_order_of_the_gradient_times_input_is_the_best(linear):
    best = measured(linear, "gradient ⊙ input")
    for name in ("random", "edge detector", "input"):
        other = measured(linear, name)
        assert (best["AOPC"] >= other["AOPC"]).all()
        assert (best["deletion"] <= other["deletion"]).all()
        assert (best["insertion"] >= other["insertion"]).all()


def test_the_gradient_of_a_linear_function_is_steady_and_depends_on_the_weights(linear):
    found = measured(linear, "gradient")
    assert found["max-sensitivity"].max() < 1e-6
    assert found["all layers"].max() < 0.5  # rows in the opposite order
    assert measured(linear, "edge detector")["all layers"].min() == 1
    assert measured(linear, "random")["max-sensitivity"].max() == 0
    # |Φ(x + δ) − Φ(x)| ≤ √n · .02 · extent, where the map is x.
    moved = measured(linear, "input")["max-sensitivity"]
    assert (moved > 0).all()
    assert (moved < 0.02 * 0.5 / 0.5).all()


def test_every_method_that_applies_gives_a_map_like_the_input(linear):
    names = methods.methods_for(linear)
    assert {"Grad-CAM", "PatternNet"}.isdisjoint(names)
    assert {"RISE", "deep Taylor", "edge detector"} <= {*names}
    for name in sorted({*names} - {"learned mask"}):
        explain = methods.explainer(linear, name)
        found = explain(linear.inputs[0], 0, jax.random.key(0), linear.params, None)
        assert found.shape in {(6, 6, 1)}, name
        assert np.isfinite(found).all(), name


def test_areas_are_those_under_the_probability_itself(linear):
    """The class whose logit falls: a scaled curve would be turned around."""
    it = linear._replace(params=-linear.params)
    found = measured(it, "gradient ⊙ input")
    for x, insertion, deletion in zip(
        it.inputs, found["insertion"], found["deletion"], strict=True
    ):
        least = xattr.targets.probability(model)(x, 0, it.params)
        assert least < 0.5  # what the baseline has
        assert least <= insertion <= 0.5
        assert least <= deletion <= 0.5


def test_signs_of_the_maps_of_rise_are_kept(linear):
    """A logit below 0 gives scores below 0, of which the largest are the least absolute ones."""
    it = linear._replace(params=-linear.params)
    explain = methods.explainer(it, "RISE")
    found = np.asarray(explain(it.inputs[0], 0, jax.random.key(0), it.params, None))
    assert found.max() < 0
    np.testing.assert_array_equal(methods.pixel_scores("RISE", found), found[..., 0])
    assert methods.pixel_scores("gradient", found).min() > 0


def test_other_patches_or_random_networks_are_measured_anew(linear, monkeypatch, tmp_path):
    monkeypatch.setattr(judgement, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(judgement, "_judge", lambda *_: {"AOPC": np.ones(3)})
    others = [
        linear, linear, linear._replace(groups=xattr.groups.grid(linear.inputs[0], (3, 3))),
        linear._replace(random={"all layers": linear.params}), linear._replace(cells=(2, 2)),
    ]  # fmt: skip
    for it in others:
        judgement._stored(it, "gradient", None, 0)
    assert len([*tmp_path.rglob("*.npz")]) == len(others) - 1


def test_axioms_of_a_method_are_those_of_the_table():
    table = {
        "axioms": ["completeness", "input_invariance"],
        "grid": {"gradient": "-+", "lime": ".."},
    }
    assert conundrum._of_axioms(table, "gradient")["axioms"][0] == 0.5
    assert conundrum._of_axioms(table, "gradient")["input invariance"][0] == 1
    assert conundrum._of_axioms(table, "LIME") == {}
    assert conundrum._of_axioms(table, "random") == {}


def test_a_method_that_has_another_name_in_bam_has_its_score():
    names = {*conundrum._bam()}
    assert {"SHAP (kernel)", "LRP-EPS", "input", "LIME", "random"} <= names
    assert names - {*methods.METHODS} == {"occlusion", "Shapley sampling"}


def test_every_name_in_the_table_of_axioms_is_there():
    grid = conundrum._axioms()["grid"]
    assert {kind.axioms for kind in methods.METHODS.values()} - {None} <= {*grid}


@pytest.fixture
def table():
    def row(aopc, seconds, steady):
        unknown = float("nan")
        values = {"AOPC": aopc, "seconds": seconds, "max-sensitivity": steady}
        return {k: (v, unknown, unknown) for k, v in values.items()}

    return Judged(
        "T", "A test.", 3,
        {
            "gradient": row(0.1, 1.0, 3.0), "integrated gradients": row(0.5, 16.0, 2.0),
            "LIME": row(0.3, 200.0, 1.0), "guided backprop": row(0.2, 1.1, 0.5),
            "random": row(0.05, 0.1, 0.0),
        },
    )  # fmt: skip


def test_advice_follows_the_table(table):
    advice = dict(conundrum._advice(table))
    order = "the order in which the score depends on features"
    assert advice[order] == "integrated gradients, LIME, guided backprop"
    assert advice["the same order for at most 2.5 gradients"] == "guided backprop, gradient"
    assert advice["the same order without gradients"] == "LIME"
    steady = "a map that stays when the input hardly moves"
    assert advice[steady] == "guided backprop, LIME, integrated gradients"  # not the control
    assert "the place of the object" not in advice


def test_controls_and_disagreements_are_named(table):
    assert "random in max-sensitivity" in conundrum._fooled(table)
    assert "random in AOPC" not in conundrum._fooled(table)
    # Places 4 1 2 3 and 4 3 2 1, without the control: ρ = 1 − 6 · 8 / (4 · 15).
    assert conundrum._agreement(table, "AOPC", "max-sensitivity") == pytest.approx(0.2)
    assert "seconds" in conundrum._disagreement(table)


def test_who_is_first_with_others_is_counted(table):
    """IG is first in AOPC, LIME in no measure; a measure with equals at the top has all of them."""
    unknown = float("nan")
    for name, share in {"integrated gradients": 1.0, "LIME": 1.0, "gradient": 0.0}.items():
        table.values[name]["axioms"] = (share, unknown, unknown)
    text = conundrum._sentence(table)
    assert "integrated gradients is first, alone or with others, in 2 of 4" in text


def test_questions_at_their_embeddings_are_the_network():
    """Words of padding are zeros there, as the network makes them."""
    setting = Setting(quick=True, progress=False)
    it = subjects.questions_subject(setting)
    data = subjects.questions.load(None, quick=True, seed=0)
    recipe = question_cnn.Recipe(seed=0)._replace(width=16, maps=12, epochs=10)
    ids = subjects.questions.encoded(data.test, subjects.questions.vocabulary(data.train))
    words = len(subjects.questions.vocabulary(data.train))
    logits = functools.partial(question_cnn.logits, words, recipe)
    for x, row in zip(it.inputs, ids, strict=False):
        np.testing.assert_allclose(it.model(x, it.params), logits(row, it.params), atol=1e-5)
        assert not x[row == 0].any()


def test_photographs_are_those_with_boxes_and_the_right_class():
    it = subjects.photographs_subject(Setting(quick=True, progress=False))
    assert it.objects.shape == it.inputs.shape[:3]
    assert 0 < it.objects.mean() < 1
    assert it.groups.max() == 48
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), it.params, it.random["top layer"])
    assert {name for name in changed if any(jax.tree.leaves(changed[name]))} == {"classifier"}
