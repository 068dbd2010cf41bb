"""Training is seeded and cached by its recipe; a resumed one ends with the same parameters."""

import itertools
import sys

import flax.serialization
import jax
import numpy as np
import pytest

from paper_repro.data.mnist import Mnist
from paper_repro.data.packages import DataError
from paper_repro.networks import digits, training
from paper_repro.networks.training import Recipe

TINY = Recipe("tiny", 12, 8, "adam", 1e-2, l2=1e-3, images=40)


@pytest.fixture
def data(monkeypatch, tmp_path):
    """Random digits, a small network and an empty cache, with the dtype promotion optax needs."""
    random = np.random.default_rng(0)
    images = random.random((60, 28, 28, 1), np.float32)
    labels = random.integers(0, 10, 60, np.int32)
    monkeypatch.setenv("XATTR_CACHE", str(tmp_path))
    monkeypatch.setattr(training, "VALIDATION", 4)
    tiny = digits.Mlp(widths=(32,))
    monkeypatch.setitem(digits.NETWORKS, "tiny", tiny)
    monkeypatch.setitem(digits.MODELS, "tiny", digits.model_of(tiny))
    with jax.numpy_dtype_promotion("standard"):
        yield Mnist(images, labels, images[:20], labels[:20])


def same(left, right):
    return all(map(np.array_equal, jax.tree.leaves(left), jax.tree.leaves(right)))


def test_trained_once_then_read(data, monkeypatch):
    first = training.train(TINY, data, progress=False)
    monkeypatch.setattr(training, "_run", None)  # a second training would fail
    again = training.train(TINY, data, progress=False)
    assert same(first.params, again.params)
    assert again[1:] == first[1:]
    assert again.steps == 12
    assert [path.name for path in TINY.path.parent.iterdir()] == [TINY.path.name]


def test_every_field_of_a_recipe_is_in_its_hash():
    others = [TINY._replace(**{f: "other"}) for f in Recipe._fields]
    assert len({TINY.hash, *(other.hash for other in others)}) == 1 + len(Recipe._fields)


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupted_training_ends_with_the_same_parameters(data, monkeypatch, after):
    """Ctrl-C comes before a step, or between its end and the assignment of its result."""
    expected = training.train(TINY, data, progress=False)
    TINY.path.unlink()
    step_of = training._step_of

    def interrupted(recipe):
        step, calls = step_of(recipe), iter(range(100))

        def counted(*arguments):
            last = next(calls) == 7
            result = step(*arguments) if after or not last else None
            if last:
                raise KeyboardInterrupt
            return result

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(training, "_step_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            training.train(TINY, data, progress=False)
    (saved,) = TINY.path.parent.iterdir()
    assert saved.suffix == ".unfinished"
    resumed = training.train(TINY, data, progress=False)
    assert same(resumed.params, expected.params)
    assert resumed.steps == 12
    assert not saved.exists()


def interrupted(recipe, data, number):
    """Train, and raise KeyboardInterrupt before the line of this number that `_run` executes."""
    lines = itertools.count()

    def at_line(frame, event, _):
        if event == "line" and next(lines) == number:
            raise KeyboardInterrupt
        return at_line

    sys.settrace(lambda frame, *_: at_line if frame.f_code is training._run.__code__ else None)
    try:
        training.train(recipe, data, progress=False)
    finally:
        sys.settrace(None)


def test_an_interrupt_before_any_line_leaves_a_state_to_resume(data):
    """Adam's own count shows which step was saved.

    A real signal would come at a random moment, and Python drops one that comes in a callback.
    """
    recipe = TINY._replace(steps=100_000, images=56, until=2.0)
    steps = [0]
    for number in range(30):  # about three steps
        with pytest.raises(KeyboardInterrupt):
            interrupted(recipe, data, number)
        state = training._start(recipe)
        assert state.step == state.optimizer[0].count
        steps.append(state.step)
    more = np.diff(steps)  # each run goes on where the one before it stopped
    assert more.min() == 0
    assert more.max() >= 2


def test_an_unwritable_cache_is_noticed_before_the_work(data, monkeypatch):
    monkeypatch.setenv("XATTR_CACHE", "/proc/nothing")
    monkeypatch.setattr(training, "_run", None)
    with pytest.raises(DataError, match="set XATTR_CACHE to another folder"):
        training.train(TINY, data, progress=False)


def test_batches_of_an_epoch_are_all_images_once():
    drawn = list(training.batches(TINY, 40))
    assert sorted(np.concatenate(drawn[:5])) == list(range(40))
    assert not np.array_equal(drawn[0], drawn[5])
    resumed = list(training.batches(TINY, 40, 7))
    assert len(drawn) == 12
    assert same(drawn[7:], resumed)


def test_random_labels_are_the_true_ones_in_another_order(data):
    images, labels = training.training_set(TINY._replace(random_labels=True), data)
    np.testing.assert_array_equal(images, data.train_images[4:44])
    assert sorted(labels) == sorted(data.train_labels[4:44])
    assert not np.array_equal(labels, data.train_labels[4:44])


def test_training_stops_once_the_images_are_known(data):
    recipe = TINY._replace(steps=2_000, until=0.95, images=16, random_labels=True, l2=0.0)
    found = training.train(recipe, data, progress=False)
    assert found.steps < 2_000
    assert found.steps % 2 == 0  # at the end of an epoch
    assert found.train_accuracy > 0.9


def test_a_damaged_cache_is_named(data):
    TINY.path.parent.mkdir(parents=True)
    TINY.path.write_bytes(b"\xc1no network")
    with pytest.raises(DataError, match=rf"{TINY.path.name}: expected a trained network.*rm "):
        training.train(TINY, data, progress=False)
    TINY.path.write_bytes(flax.serialization.msgpack_serialize({"params": 1}))
    with pytest.raises(DataError, match=r"expected a trained network, found.*the fields params"):
        training.train(TINY, data, progress=False)


def test_the_gradient_step_matches_one_written_by_hand(data):
    """One step of SGD on cross-entropy, with weight decay of the hidden layer only."""
    recipe = TINY._replace(optimizer="sgd", learning_rate=0.5, l2=0.1, steps=1)
    params = digits.initialise("tiny", jax.random.key(0))
    kept = jax.tree.map(np.asarray, params)
    x, y = data.train_images[4:12].reshape(8, -1), data.train_labels[4:12]
    hidden = np.maximum(x @ kept["h1"]["kernel"] + kept["h1"]["bias"], 0)
    scores = hidden @ kept["output"]["kernel"] + kept["output"]["bias"]
    odds = np.exp(scores - scores.max(1, keepdims=True))
    slope = odds / odds.sum(1, keepdims=True) - np.eye(10)[y]
    below = slope @ kept["output"]["kernel"].T * (hidden > 0)
    output = kept["output"]["kernel"] - 0.5 * hidden.T @ slope / 8
    first = kept["h1"]["kernel"] - 0.5 * (x.T @ below / 8 + 0.1 * kept["h1"]["kernel"])
    state = training._optimizer(recipe).init(params)
    new, _, right = training._step_of(recipe)(params, state, data.train_images[4:12], y)
    np.testing.assert_allclose(new["output"]["kernel"], output, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new["h1"]["kernel"], first, rtol=1e-4, atol=1e-6)
    assert right == pytest.approx((scores.argmax(1) == y).mean())
