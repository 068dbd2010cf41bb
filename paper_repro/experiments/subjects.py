"""Not an experiment: the classifiers on which `conundrum` compares all methods."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro.data import mnist, questions
from paper_repro.experiments import maps, photograph_cascade
from paper_repro.experiments.methods import Subject
from paper_repro.networks import digits, efficientnet, question_cnn, training
from paper_repro.report.progress import shown
from paper_repro.report.results import Setting
from xattr import sanity

DIGITS, PHOTOGRAPHS, QUESTIONS = 20, 6, 20
"""Inputs of each subject."""
BACKGROUND = 16
"""Other inputs, the baselines of expected gradients."""
START = 1e-30
"""PatternNet's signal grows by 28 orders of magnitude on its way through EfficientNet. Its map is
linear in the start."""


def digits_subject(setting: Setting) -> Subject:
    """Return the CNN of the sanity checks, and the first test digits."""
    data = mnist.load(setting.mnist_dir, progress=setting.progress)
    network = training.network("cnn", setting, data)
    model, key = digits.logits("cnn"), jax.random.key(setting.seed)
    images = data.test_images[: 2 if setting.quick else DIGITS]
    init = sanity.truncated_normal(std=0.1, bias=0.1)
    random = {
        what: sanity.randomize(network.params, key, layers=layers, init=init)
        for what, layers in {"top layer": ("output",), "all layers": digits.Cnn.layers}.items()
    }
    if not setting.quick:
        random["random labels"] = training.network("cnn, random labels", setting, data).params
    return Subject(
        "MNIST CNN",
        f"The CNN of the sanity checks, right for {100 * network.test_accuracy:.1f} % of the test "
        f"digits, is asked about the first {len(images)}.",
        model,
        network.params,
        images,
        training.predictions(model, network.params, images),
        xattr.groups.grid(images[0], (4, 4)),
        random,
        patterns=None if setting.quick else _digit_patterns(setting, data, network.params),
        layer="conv2_features",
        cells=(7, 7),
        bounds=(0.0, 1.0),
        background=data.train_images[:BACKGROUND],
    )


def _digit_patterns(setting: Setting, data: mnist.Mnist, params: Any) -> Any:
    images = data.train_images[:5_000]
    batches = [images[i : i + 500] for i in range(0, len(images), 500)]
    return xattr.fit_patterns(
        xattr.targets.logit(digits.logits("cnn")),
        batches,
        estimator="linear",
        args=(0, params),
        progress=lambda work: shown(work, "patterns", setting.progress),
    )


def photographs_subject(setting: Setting) -> Subject:
    """Return EfficientNet-Lite0, and the first photographs whose class it predicts."""
    whole = maps.scene_of(setting, quick=3)
    right = [
        i
        for i, each in enumerate(whole.photographs)
        if len(each.boxes) and whole.tops[i] == each.label
    ]
    count = 1 if setting.quick else PHOTOGRAPHS
    scene, rest = whole.chosen(right[:count]), whole.chosen(right[count:][:BACKGROUND])
    variant, images = setting.network, scene.images
    size = images.shape[1]
    return Subject(
        f"EfficientNet-{variant.capitalize()}",
        f"{scene.source} Those with boxes and the right class are taken.",
        _model(variant, "shifted"),
        scene.params,
        images,
        scene.tops,
        xattr.groups.grid(images[0], (size // 7, size // 7)),
        _random_efficientnets(scene),
        pattern_model=_model(variant, "conv"),
        patterns=None if setting.quick else photograph_cascade.patterns_of(whole)[0],
        layer="head",
        cells=(7, 7),
        bounds=(0.0, 1.0),
        start=START,
        background=rest.images if rest.photographs else images,
        objects=np.stack([each.mask for each in scene.photographs]),
    )


@functools.cache
def _model(variant: str, depthwise: efficientnet.Depthwise) -> Any:
    network = efficientnet.EfficientNetLite(depthwise=depthwise, variant=variant)

    def model(image: jax.Array, params: Any) -> jax.Array:
        found: jax.Array = network.apply({"params": params}, image)
        return found

    return model


def _random_efficientnets(scene: maps.Scene) -> dict[str, Any]:
    network = efficientnet.EfficientNetLite(variant=scene.setting.network)
    key = jax.random.key(scene.setting.seed)
    fresh = jax.jit(network.init)(key, jnp.asarray(scene.images[0]))["params"]
    return {
        what: sanity.randomize(scene.params, key, layers=layers, init=lambda *_: fresh)
        for what, layers in {"top layer": ("classifier",), "all layers": tuple(fresh)}.items()
    }


def questions_subject(setting: Setting) -> Subject:
    """Return Kim's CNN for questions, at its embeddings, and the first test questions."""
    data = questions.load(setting.wtq_dir, quick=setting.quick, seed=setting.seed)
    recipe = question_cnn.Recipe(seed=setting.seed)
    if setting.quick:
        recipe = recipe._replace(width=16, maps=12, epochs=10)
    trained, words = _question_network(recipe, data, setting)
    embed, rest = xattr.tokens.at_embedding(functools.partial(question_cnn.logits, words, recipe))
    ids = questions.encoded(data.test, questions.vocabulary(data.train))
    count = 2 if setting.quick else QUESTIONS
    found = np.asarray(
        jax.jit(jax.vmap(embed, (0, None)))(ids[: count + BACKGROUND], trained.params)
    )
    inputs = np.asarray(found * (ids[: len(found)] != 0)[..., None])

    def model(x: jax.Array, params: Any) -> jax.Array:
        # No word is marked as padding. That of padding is 0, which the network would make of it.
        return jnp.asarray(rest(x, jnp.ones(len(x), jnp.int32), params))

    return Subject(
        "question CNN",
        f"Kim's CNN for questions, right for {100 * trained.test:.1f} % of the test questions, is "
        f"asked about the first {count}, at the embeddings of their words. `--wtq-dir` takes "
        "WikiTableQuestions; else a grammar makes the questions.",
        model,
        trained.params,
        inputs[:count],
        question_cnn.predictions(recipe, trained.params, ids[:count], batch=count),
        np.arange(inputs.shape[1], dtype=np.int32),
        _random_question_networks(recipe, words, trained.params, setting),
        patterns=None if setting.quick else _question_patterns(model, inputs, trained.params),
        background=inputs[count:],
    )


def _question_network(
    recipe: question_cnn.Recipe, data: questions.Questions, setting: Setting
) -> tuple[question_cnn.Trained, int]:
    trained = question_cnn.train(recipe, data, progress=setting.progress)
    return trained, len(questions.vocabulary(data.train))


def _random_question_networks(
    recipe: question_cnn.Recipe, words: int, params: Any, setting: Setting
) -> dict[str, Any]:
    key = jax.random.key(setting.seed)
    ids = jnp.zeros(questions.LENGTH, jnp.int32)
    fresh = question_cnn.Cnn(words, recipe).init(key, ids)["params"]
    layers = tuple(name for name in params if name != "table")
    return {
        what: sanity.randomize(params, key, layers=names, init=lambda *_: fresh)
        for what, names in {"top layer": ("output",), "all layers": layers}.items()
    }


def _question_patterns(model: Any, x: np.ndarray, params: Any) -> Any:
    return xattr.fit_patterns(xattr.targets.logit(model), [x], estimator="linear", args=(0, params))
