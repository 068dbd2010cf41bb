"""What an experiment returns (figures, numbers, claims), and how it is written to a folder."""

import contextlib
import importlib.metadata
import io
import json
import platform
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from paper_repro.data.packages import replacing

PACKAGES = ("jax", "flax", "optax", "numpy", "scikit-image", "xattr-jax")


class UsageError(Exception):
    """An option of the command line is wrong; the text says which one and what is expected."""


def check_seed(seed: int) -> None:
    """Raise unless both NumPy and JAX accept the seed."""
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed must lie between 0 and {2**32 - 1}, not {seed}")


class Setting(NamedTuple):
    """The options of an experiment; `quick` asks for little training and few images, for tests."""

    quick: bool = False
    seed: int = 0
    progress: bool = True
    mnist_dir: Path | None = None
    imagenet_dir: Path | None = None
    network: str = "lite0"
    ptb_dir: Path | None = None
    wtq_dir: Path | None = None
    fashion_dir: Path | None = None


class Claim(NamedTuple):
    """A statement of a paper beside what was measured.

    `agrees` is None where the paper prints no number. `why` is the likely reason of a difference,
    or a remark.
    """

    what: str
    paper: str
    ours: str
    agrees: bool | None
    why: str = ""

    @property
    def verdict(self) -> str:
        """Say in a word or two whether the statement is reproduced."""
        return {True: "agrees", False: "**differs**", None: "not stated"}[self.agrees]


class Table(NamedTuple):
    """A table of the page; its cells are text."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Result(NamedTuple):
    """All that an experiment reports.

    `figures` maps the suffix of a file's name ("" for the first) to a matplotlib Figure. `numbers`
    holds what JSON can hold, and arrays. `claims` and `tables` become tables of the Markdown page,
    `notes` its paragraphs. `animations` maps a suffix to the Figures that a GIF shows in turn.
    """

    title: str
    figures: dict[str, Any]
    numbers: dict[str, Any]
    claims: Sequence[Claim]
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    animations: Mapping[str, Sequence[Any]] = {}


def write(name: str, result: Result, setting: Setting, seconds: float, out: Path) -> list[Path]:
    """Write the figures, NAME.json and NAME.md to `out`; no file is left half-written."""
    written = []
    pictures: list[str] = []
    for suffix, figure in result.figures.items():
        path = out / f"{name}{'-' if suffix else ''}{suffix}.png"
        with replacing(path) as part:
            figure.savefig(part, dpi=100, metadata={"Software": None})
            _shrink(part)
        written.append(path)
    for suffix, frames in result.animations.items():
        path = out / f"{name}-{suffix}.gif"
        with replacing(path) as part:
            _animate(frames, part)
        written.append(path)
    pictures += [path.name for path in written]
    facts = _facts(name, setting, seconds)
    facts |= {"title": result.title, "figures": pictures}
    facts["claims"] = [claim._asdict() for claim in result.claims]
    for path, text in (
        (out / f"{name}.json", _json(facts, result.numbers)),
        (out / f"{name}.md", _markdown(facts, result, pictures)),
    ):
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def check_folder(folder: Path) -> None:
    """Make the folder, and raise before the work begins if it cannot be written to."""
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn an OSError of the block into an error that names `--out`."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot be written to ({error.strerror})") from error


def _shrink(path: Path) -> None:
    """Keep 256 colours of a picture: it has a third of the bytes and looks the same."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, format="PNG", optimize=True)


def _animate(frames: Sequence[Any], path: Path) -> None:
    """Write figures as the frames of a GIF, five a second, over and over."""
    from PIL import Image

    pictures = []
    for figure in frames:
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=100)
        picture = Image.open(buffer).convert("RGB")
        pictures.append(picture.quantize(64, dither=Image.Dither.NONE))
    first, *others = pictures
    first.save(path, format="GIF", save_all=True, append_images=others, duration=200, loop=0)


def _facts(name: str, setting: Setting, seconds: float) -> dict[str, Any]:
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {
        "experiment": name,
        "command": _command(name, setting),
        "quick": setting.quick,
        "seed": setting.seed,
        "seconds": round(seconds, 1),
        "device": jax.devices()[0].device_kind,
        "versions": {"python": platform.python_version(), **versions},
    }


def _command(name: str, setting: Setting) -> str:
    """Return the command that repeats the run; a folder of data goes by its last part."""
    parts = ["python -m paper_repro", name]
    for option in ("imagenet", "ptb", "wtq", "fashion"):
        folder = getattr(setting, f"{option}_dir")
        if folder is not None:
            parts.append(f"--{option}-dir {folder.name}")
    if setting.network != "lite0":
        parts.append(f"--network {setting.network}")
    if setting.quick:
        parts.append("--quick")
    return " ".join([*parts, f"--seed {setting.seed}"])


def _json(facts: dict[str, Any], numbers: dict[str, Any]) -> str:
    text = json.dumps({**facts, "numbers": _plain(numbers)}, indent=1, ensure_ascii=False)
    # A list of numbers stays on one line, so that people can read the file and its changes.
    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"


def _plain(value: Any) -> Any:
    """Turn arrays into lists, round floats to six digits, and turn NaN and ∞ into None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, jax.Array)):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value


def _markdown(facts: dict[str, Any], result: Result, pictures: Sequence[str]) -> str:
    parts = [f"# {result.title}"]
    if facts["quick"]:
        parts.append(
            "> Numbers of `--quick`: few images, or networks trained for seconds, for tests only."
        )
    parts.append(f"```sh\n{facts['command']}\n```")
    parts.append(_circumstances(facts))
    parts += result.notes
    parts += [f"![{name}]({name})" for name in pictures]
    parts.append(_claims(result.claims))
    parts += [f"## {table.title}\n\n{_table(table.head, table.rows)}" for table in result.tables]
    return "\n\n".join(parts) + "\n"


def _circumstances(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"{facts['seconds']:.0f} s on {facts['device']}; {versions}."


def _claims(claims: Iterable[Claim]) -> str:
    head = ("claim", "paper", "here", "verdict", "likely reason, or remark")
    return _table(head, [(c.what, c.paper, c.ours, c.verdict, c.why) for c in claims])


def gallery(folder: Path, names: Iterable[str]) -> str:
    """Return the page that shows every experiment's figures and claims, from its JSON."""
    parts = [
        "# The papers' experiments, repeated",
        "`python -m paper_repro gallery` writes this page from the numbers in `results/`, where "
        "each experiment has a page with its setup, all tables, versions and duration. *The note* "
        "is Sundararajan & Taly 2018; *sanity checks* are those of Adebayo et al. 2018, with their "
        "notebooks and slides; *unreliability* is Kindermans, Hooker et al. 2017; "
        '*counterfactuals* is Sundararajan, Taly & Yan 2016, "Gradients of Counterfactuals". The '
        "first run trains the networks (`python -m paper_repro train`) and caches them.",
        "Experiments on photographs explain EfficientNet-Lite0. Without `--imagenet-dir` they take "
        "25 pictures of two packages on PyPI. The numbers here are those of 200 pictures of "
        "ILSVRC2012's validation set, whose names are in the JSON. Figures show the five free "
        "photographs of scikit-image alone (coffee, chelsea, camera, rocket, astronaut).",
        "The language model reads the King James Bible, or Penn Treebank with `--ptb-dir`. "
        "Questions are WikiTableQuestions with `--wtq-dir`, and else a grammar of ours makes them.",
        "## One photograph by twenty methods",
        "```sh\npython -m paper_repro demo --methods all\n```",
        "![A cup of coffee and twenty maps of it](demo-all.png)",
    ]
    for name in names:
        source = folder / f"{name}.json"
        if not source.is_file():
            raise UsageError(f"{source}: no such file; run python -m paper_repro {name} first")
        facts = json.loads(source.read_text(encoding="utf-8"))
        page = f"{folder.name}/{name}.md"
        parts += [f"## [{facts['title']}]({page})", f"```sh\n{facts['command']}\n```"]
        parts += [f"![{picture}]({folder.name}/{picture})" for picture in facts["figures"]]
        parts.append(_claims(Claim(**claim) for claim in facts["claims"]))
    parts += [
        "## What is not here",
        'The slides name "FSM (Adel et al.)" among the measures of attributions. They give no '
        "title, formula or figure, and we found no paper of that name on attributions; so we "
        "cannot say what it measures, and nothing here stands in for it. The Inception networks "
        "and the radiographs of the sanity checks, and the retinal scans and the translator of "
        "the slides, are not public, or are behind a licence; EfficientNet-Lite and networks "
        "trained here take their place.",
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def decimal(value: float, digits: int = 3) -> str:
    """Write a number as the papers write correlations: .424, −.003, 1.000; "undefined" for NaN."""
    if not np.isfinite(value):
        return "undefined"
    text = f"{value:.{digits}f}"
    size = text.lstrip("-")
    sign = "−" if text != size and float(size) else ""
    return sign + (size[1:] if float(size) < 1 else size)


def with_interval(mean: float, low: float, high: float, *, digits: int = 3) -> str:
    """Write a mean and its interval: .424 [.413, .437]; the mean alone where `low` is NaN."""
    if np.isnan(low):
        return decimal(mean, digits)
    return f"{decimal(mean, digits)} [{decimal(low, digits)}, {decimal(high, digits)}]"


def interval(values: np.ndarray, level: float = 0.95, axis: int = 0) -> tuple[Any, Any, Any]:
    """Return the mean and a normal confidence interval: mean, low, high; NaN are left out."""
    from statistics import NormalDist

    values = np.asarray(values, np.float64)
    mean = np.nanmean(values, axis=axis)
    count = np.sum(np.isfinite(values), axis=axis)
    half = NormalDist().inv_cdf(0.5 + level / 2) * np.nanstd(values, axis=axis, ddof=1) / count**0.5
    return mean, mean - half, mean + half
