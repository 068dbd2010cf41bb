"""A network that looks at the snow and not at the wolf (slides, introduction; Ribeiro et al.)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro.data import mnist
from paper_repro.data.photographs import texture
from paper_repro.networks import digits, training
from paper_repro.report.progress import shown
from paper_repro.report.results import Claim, Result, Setting, Table, decimal, interval

ANIMALS = (3, 8)
"""The digits that stand for husky and wolf."""
PATCH = 4
"""Pixels along a side of the patches that methods leave out."""
FAINT = 0.6
"""How dark the digit is: it multiplies its background by 1 − .6."""
SNOW = 0.4
"""How much lighter the wolf's background is: t becomes .4 + .6 t."""
GREY = 0.5
"""What stands where a patch is left out."""
NETWORKS = ("background tells the class", "background at random")


class Size(NamedTuple):
    """How much is trained and measured."""

    steps: int
    images: int
    samples: int


FULL, QUICK = Size(1_500, 100, 1_000), Size(60, 4, 200)
BATCH = 64


class Pictures(NamedTuple):
    """Digits on textures, and where the digit is."""

    images: np.ndarray
    """(n, 28, 28, 1) in [0, 1]."""
    labels: np.ndarray
    """0 for a husky, 1 for a wolf."""
    masks: np.ndarray
    """Whether a pixel belongs to the digit, (n, 28, 28)."""


def run(setting: Setting) -> Result:
    """Train one network with the cue and one without, and see which methods tell them apart."""
    size = QUICK if setting.quick else FULL
    data = mnist.load(setting.mnist_dir, progress=setting.progress)
    grass, gravel = (texture(name, progress=setting.progress) for name in ("grass", "gravel"))
    textures = [grass, SNOW + (1 - SNOW) * gravel]
    make = functools.partial(_pictures, textures=textures, seed=setting.seed)
    digits_of = {"train": (data.train_images, data.train_labels)}
    digits_of["test"] = (data.test_images, data.test_labels)
    trained = {
        name: _trained(make(*digits_of["train"], cue=cue), size, setting, name)
        for name, cue in zip(NETWORKS, (1.0, 0.5), strict=True)
    }
    with_cue, against = (make(*digits_of["test"], cue=cue) for cue in (1.0, 0.0))
    accuracy = {
        name: {
            "background as trained": _accuracy(params, with_cue),
            "background swapped": _accuracy(params, against),
        }
        for name, params in trained.items()
    }
    chosen = Pictures(*(values[: size.images] for values in with_cue))
    shares = {
        name: _shares(params, chosen, size, setting, name) for name, params in trained.items()
    }
    numbers = {"accuracy": accuracy, "background": shares, "images": size.images}
    maps = {name: _maps(params, chosen, size, setting) for name, params in trained.items()}
    return Result(
        "Husky or wolf: a cue in the background",
        {"": _draw(chosen, maps), "shares": _draw_shares(shares)},
        numbers,
        _claims(accuracy, shares),
        [_table(shares)],
        _notes(size),
    )


def _pictures(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    cue: float,
    textures: list[np.ndarray],
    seed: int,
) -> Pictures:
    """Put the two digits on crops of textures; with probability `cue` on that of their class."""
    random = np.random.default_rng([seed, len(images), int(100 * cue)])
    chosen = np.isin(labels, ANIMALS)
    figures, classes = images[chosen][..., 0], (labels[chosen] == ANIMALS[1]).astype(np.int32)
    background = np.where(random.random(len(classes)) < cue, classes, 1 - classes)
    corners = random.integers(0, textures[0].shape[0] - 28, (len(classes), 2))
    crops = np.stack(
        [textures[b][i : i + 28, j : j + 28] for b, (i, j) in zip(background, corners, strict=True)]
    )
    drawn = crops * (1 - FAINT * figures)
    return Pictures(drawn[..., None].astype(np.float32), classes, figures > 0.3)


def _trained(pictures: Pictures, size: Size, setting: Setting, name: str) -> Any:
    """Train the CNN of the sanity checks for a few steps."""
    params = digits.initialise("cnn", jax.random.key(setting.seed))
    work = shown(range(size.steps), f"training, {name}", setting.progress)
    return training.briefly(
        digits.logits("cnn"),
        params,
        pictures.images,
        pictures.labels,
        work,
        batch=BATCH,
        seed=setting.seed,
    )


def _accuracy(params: Any, pictures: Pictures) -> float:
    return training.accuracy(digits.logits("cnn"), params, pictures.images, pictures.labels)


def score(image: jax.Array, label: Any, params: Any) -> jax.Array:
    """Return the logit of a class less that of the other."""
    logits = digits.logits("cnn")(image, params)
    return logits[label] - logits[1 - label]


Method = Callable[[Any, Any, Any, int], Any]


def _integrated(x: Any, args: Any, key: Any, samples: int) -> Any:
    return xattr.integrated_gradients(score, x, GREY + 0 * x, args=args, warn_above=None)


def _grouped(name: str, x: Any, args: Any, key: Any, samples: int) -> Any:
    """Call a method that leaves out patches."""
    groups = xattr.groups.grid(x, (PATCH, PATCH))
    baseline = GREY + 0 * x
    if name == "ablation":
        return xattr.ablation(score, x, baseline, groups=groups, args=args)
    if name == "shapley_sampling":
        count = 2 * max(1, samples // 100)
        options = {"num_permutations": count}
    else:
        options = {"num_samples": samples}
    found = getattr(xattr, name)(score, x, baseline, key, groups=groups, args=args, **options)
    return found.attributions


def _gradient(x: Any, args: Any, key: Any, samples: int) -> Any:
    return xattr.gradient(score, x, args=args)


def _gradient_x_input(x: Any, args: Any, key: Any, samples: int) -> Any:
    # From grey, as the others: the product with what x has beyond it.
    return xattr.gradient(score, x, args=args) * (x - GREY)


def _guided(x: Any, args: Any, key: Any, samples: int) -> Any:
    return xattr.guided_backprop(score, x, args=args)


METHODS: dict[str, Method] = {
    "LIME": functools.partial(_grouped, "lime"),
    "KernelSHAP": functools.partial(_grouped, "kernel_shap"),
    "Shapley sampling": functools.partial(_grouped, "shapley_sampling"),
    "ablation of patches": functools.partial(_grouped, "ablation"),
    "integrated gradients": _integrated,
    "gradient ⊙ (input − grey)": _gradient_x_input,
    "gradient": _gradient,
    "guided backprop": _guided,
}


def _map_of(name: str, params: Any, pictures: Pictures, size: Size, setting: Setting) -> np.ndarray:
    """Return the maps of all pictures, (n, 28, 28)."""
    keys = jax.random.split(jax.random.key(setting.seed), len(pictures.labels))
    work = zip(pictures.images, pictures.labels, keys, strict=True)
    return np.stack([np.asarray(_one(name, size.samples, *each, params)) for each in work])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _one(name: str, samples: int, image: Any, label: Any, key: Any, params: Any) -> jax.Array:
    return METHODS[name](image, (label, params), key, samples)[..., 0]


def _maps(params: Any, pictures: Pictures, size: Size, setting: Setting) -> dict[str, np.ndarray]:
    """Return the maps of one picture of each class."""
    places = [int(np.argmax(pictures.labels == label)) for label in (0, 1)]
    few = Pictures(*(values[places] for values in pictures))
    return {name: _map_of(name, params, few, size, setting) for name in METHODS}


def _shares(
    params: Any, pictures: Pictures, size: Size, setting: Setting, text: str
) -> dict[str, np.ndarray]:
    """Return the share of |A| outside the digit for each method, and the truth."""
    found = {"truth": _truth(params, pictures)}
    for name in shown(METHODS, f"maps, {text}", setting.progress):
        maps = np.abs(_map_of(name, params, pictures, size, setting))
        outside = (maps * ~pictures.masks).sum(axis=(1, 2))
        found[name] = outside / maps.sum(axis=(1, 2))
    return found


def _truth(params: Any, pictures: Pictures) -> np.ndarray:
    """Return the share of the background as one of two features, by their Shapley values.

    A feature that is left out is grey.
    """

    def one(image: Any, label: Any, mask: Any) -> Any:
        def value(digit: Any, background: Any) -> Any:
            kept = jnp.where(mask[..., None], digit, background)
            return score(jnp.where(kept, image, GREY), label, params)

        on, off = jnp.array(True), jnp.array(False)
        alone, given = (
            value(off, on) - value(off, off),
            value(on, on) - value(on, off),
        )
        background = (alone + given) / 2
        digit = (value(on, off) - value(off, off) + value(on, on) - value(off, on)) / 2
        return jnp.abs(background) / (jnp.abs(background) + jnp.abs(digit))

    return np.asarray(jax.jit(jax.vmap(one))(pictures.images, pictures.labels, pictures.masks))


def _claims(accuracy: Any, shares: Any) -> list[Claim]:
    cue, control = (accuracy[name] for name in NETWORKS)
    claims = [
        Claim(
            "a network trained on a cue fails where the cue is turned around",
            "wolf for a husky on snow",
            f"{100 * cue['background as trained']:.1f} % right, and "
            f"{100 * cue['background swapped']:.1f} % with the background of the other class; "
            f"trained without the cue {100 * control['background as trained']:.1f} % and "
            f"{100 * control['background swapped']:.1f} %",
            cue["background swapped"] < 0.5 < control["background swapped"],
        )
    ]
    for name in METHODS:
        first, second = (np.asarray(shares[network][name]) for network in NETWORKS)
        apart, low, high = interval(first - second)
        claims.append(
            Claim(
                f"{name}: more of the map lies on the background of the network with the cue",
                "explanations reveal it",
                f"{100 * first.mean():.0f} % against {100 * second.mean():.0f} %, difference "
                f"{100 * apart:.0f} [{100 * low:.0f}, {100 * high:.0f}] points".replace("-", "−"),
                bool(low > 0),
                _remark(shares, name),
            )
        )
    return claims


def _remark(shares: Any, name: str) -> str:
    first, second = (100 * np.mean(shares[network]["truth"]) for network in NETWORKS)
    return f"the truth: {first:.0f} % and {second:.0f} %" if name == "LIME" else ""


def _table(shares: Any) -> Table:
    rows = []
    for name in ("truth", *METHODS):
        cells = []
        for network in NETWORKS:
            mean, low, high = (100 * value for value in interval(shares[network][name]))
            cells.append(f"{mean:.0f} % [{low:.0f}, {high:.0f}]")
        first, second = (np.asarray(shares[network][name]) for network in NETWORKS)
        better = (first[:, None] > second[None]).mean() + (
            first[:, None] == second[None]
        ).mean() / 2
        rows.append([name, *cells, decimal(float(better), 2)])
    head = ["method", *NETWORKS, "AUC: a picture's share tells the networks apart"]
    return Table("Share of the absolute attributions outside the digit", head, rows)


def _notes(size: Size) -> list[str]:
    return [
        "Digits 3 (husky) and 8 (wolf) of MNIST darken crops of two photographs of scikit-image, "
        "grass, and gravel made light as snow. One network is trained on pictures in which the "
        "background tells the class, another on pictures whose background is drawn at random. Both "
        f"are the CNN of the sanity checks, trained for {size.steps:,} steps.",
        "The score is the logit of the class less that of the other. What is left out is grey. "
        f"LIME, KernelSHAP, Shapley sampling and ablation leave out patches of {PATCH} × {PATCH} "
        "pixels. A map's share is that of |A| outside the digit. The truth takes digit and "
        "background as two features, and is the background's part of their absolute Shapley "
        "values.",
    ]


def _draw(pictures: Pictures, maps: dict[str, dict[str, np.ndarray]]) -> Any:
    from matplotlib.figure import Figure

    chosen = ("LIME", "KernelSHAP", "integrated gradients", "gradient", "guided backprop")
    places = [int(np.argmax(pictures.labels == label)) for label in (0, 1)]
    figure = Figure(figsize=(9.6, 6.6), layout="constrained")
    axes = figure.subplots(4, len(chosen) + 1)
    for block, network in enumerate(NETWORKS):
        for row, place in enumerate(places):
            line = axes[2 * block + row]
            line[0].imshow(pictures.images[place, ..., 0], cmap="gray", vmin=0, vmax=1)
            line[0].set_ylabel(network.replace(" tells", "\ntells").replace(" at", "\nat"), size=9)
            for ax, name in zip(line[1:], chosen, strict=True):
                xattr.plot.heatmap(ax, maps[network][name][row])
            for ax in line:
                ax.set(xticks=[], yticks=[])
    for ax, name in zip(axes[0], ("picture", *chosen), strict=True):
        ax.set_title(name, size=10)
    return figure


def _draw_shares(shares: Any) -> Any:
    from matplotlib.figure import Figure

    names = ["truth", *METHODS]
    figure = Figure(figsize=(8.5, 3.8), layout="constrained")
    ax = figure.subplots()
    places = np.arange(len(names))
    for offset, network, colour in zip((-0.2, 0.2), NETWORKS, ("tab:red", "tab:blue"), strict=True):
        values = [shares[network][name] for name in names]
        drawn = ax.boxplot(
            values, positions=places + offset, widths=0.32, whis=(5, 95), patch_artist=True,
            showfliers=False,
        )  # fmt: skip
        for box in drawn["boxes"]:
            box.set(facecolor=colour, alpha=0.5)
        ax.plot([], [], color=colour, linewidth=6, alpha=0.5, label=network)
    ax.set_xticks(places, names, rotation=25, ha="right", size=9)
    ax.set_ylabel("share outside the digit")
    ax.set_ylim(0, 1.02)
    figure.legend(loc="outside upper center", ncols=2)
    return figure
