"""Every method of the library on every axiom: what holds, what fails and where (axioms)."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro.experiments import axiom_rows
from paper_repro.experiments.axiom_rows import ROWS, Measure, Row
from paper_repro.report.progress import shown
from paper_repro.report.results import Claim, Result, Setting, Table
from xattr import composites, paths, quadrature, rules
from xattr.axioms import Gap
from xattr.testing import AXIOMS, Problem, Verdict, falsify, functions, problem, problems, search
from xattr.types import UncoveredPrimitiveError

EXAMPLES, QUICK_EXAMPLES = 40, 2
QUICK = (
    "gradient",
    "gradient_x_input",
    "integrated_gradients",
    "integrated_gradients, moving baseline",
    "path_integral, bent",
    "path_integral, depends on its ends",
    "pattern_attribution, kept patterns",
    "grad_cam",
    "conductance",
    "competitive_gradient_x_input",
)
"""The rows of `--quick`: each way in which a row is tried is among them, but one.

Patterns fitted anew for each problem are left out, since they took nearly a third of the time.
"""

HOLDS, FAILS, SILENT = "+", "-", "."
NO_RULE = "has a rule for none of the functions"


class Entry(NamedTuple):
    """What came of one method and one axiom; `why` tells why nothing could."""

    symbol: str
    verdict: Verdict
    why: str = ""


WITNESSES: dict[str, tuple[dict[str, Any], ...]] = {
    "sensitivity_b": (
        {"name": "nothing", "x": [0.1, 0.2, 0.3], "baseline": [1.5, 0.0, 0.0], "feature": 1},
    ),
    "implementation_invariance": ({"name": "identity-relu", "x": [0.1, -1.8, 0.3, 0.4]},),
    "affine_scale_invariance": ({"name": "conv-relu", "seed": 1, "shift": 0.0, "scale": 2.0},),
    "positivity": ({"name": "rising", "x": [1.5, -0.3], "baseline": [0.1, -1.5]},),
}
"""Axiom -> problems tried beside those drawn: some methods fail on these and on few others."""

Grid = Mapping[str, Mapping[str, Entry]]


def run(setting: Setting) -> Result:
    """Try every method on every axiom; repeat the papers' counterexamples."""
    names = QUICK if setting.quick else tuple(ROWS)
    examples = QUICK_EXAMPLES if setting.quick else EXAMPLES
    kinks = _kinks(10 if setting.quick else 100)
    with _fast_compilation(), jax.enable_x64(True):
        pairs = [(name, axiom) for name in names for axiom in AXIOMS]
        found = {
            (name, axiom): _tried(ROWS[name], axiom, examples, setting.seed)
            for name, axiom in shown(pairs, "methods × axioms", setting.progress)
        }
        answers = _answers()
    grid = {name: {axiom: found[name, axiom] for axiom in AXIOMS} for name in names}
    return report(grid, answers, kinks, examples)


def report(
    grid: Grid, answers: Mapping[str, Any], kinks: Mapping[str, Any], examples: int
) -> Result:
    """Return figure, numbers, claims and tables of what was found."""
    return Result(
        title="Axioms: every method of the library on every axiom, with counterexamples",
        figures={"": _draw(grid)},
        numbers={
            "axioms": list(AXIOMS),
            "examples": examples,
            "grid": {name: _symbols(row) for name, row in grid.items()},
            "entries": {
                name: {axiom: _numbers(entry) for axiom, entry in row.items()}
                for name, row in grid.items()
            },
            "answers": answers,
            "kinks": kinks,
        },
        claims=_claims(grid, answers, kinks),
        tables=[_grid_table(grid), _failures(grid), _silences(grid), _uncovered(grid)],
        notes=_notes(examples),
    )


@contextlib.contextmanager
def _fast_compilation() -> Iterator[None]:
    """Compile with few optimizations: there are thousands of programs, each run a few times."""
    option = "jax_disable_most_optimizations"
    before = jax.config.read(option)
    jax.config.update(option, True)
    try:
        yield
    finally:
        jax.config.update(option, before)


# Trials -----------------------------------------------------------------------------------------


def _tried(row: Row, axiom: str, examples: int, seed: int) -> Entry:
    empty = Verdict(axiom, None, 0, 0, None, None)
    if axiom in row.silent:
        return Entry(SILENT, empty, row.silent[axiom])
    examples *= row.times
    if axiom in row.measured:
        verdict = _measured(axiom, row.measured[axiom], examples, seed)
    elif not AXIOMS[axiom].methods.have(row.method):
        return Entry(SILENT, empty, AXIOMS[axiom].methods.otherwise)
    else:
        verdict = falsify(axiom, row.method, max_examples=examples, refined=row.refined, seed=seed)
    if axiom not in row.measured and verdict.holds:
        verdict = _witnessed(row, verdict)
    if verdict.holds is None:
        return Entry(SILENT, verdict, NO_RULE)
    return Entry(HOLDS if verdict.holds else FAILS, verdict)


def _witnessed(row: Row, verdict: Verdict) -> Verdict:
    """Try a few more problems on a method that kept its axiom on those drawn."""
    for witness in (problem(**each) for each in WITNESSES.get(verdict.axiom, ())):
        with contextlib.suppress(UncoveredPrimitiveError):
            gap = axiom_rows.gap_of(row, verdict.axiom, witness)
            if not bool(gap.holds):
                return verdict._replace(
                    holds=False, examples=verdict.examples + 1, gap=gap, counterexample=witness
                )
    return verdict


def _measured(axiom: str, measure: Measure, examples: int, seed: int) -> Verdict:
    """Try a measure of our own on the problems that `xattr.testing.falsify` would draw."""
    gaps: list[Gap] = []
    uncovered = 0
    for drawn in drawn_problems(axiom, examples, seed):
        try:
            gap = measure(drawn)
        except UncoveredPrimitiveError:
            uncovered += 1
            continue
        if not bool(gap.holds):
            return Verdict(axiom, False, len(gaps) + 1, uncovered, gap, drawn)
        gaps.append(gap)
    worst = max(gaps, key=float, default=None)
    return Verdict(axiom, True if gaps else None, len(gaps), uncovered, worst, None)


def drawn_problems(axiom: str, count: int, seed: int) -> list[Problem]:
    """Return problems of an axiom."""
    drawn: list[Problem] = []

    def keep(each: Problem) -> bool:
        drawn.append(each)
        return False

    search.find(problems(axiom), keep, count, seed)
    return drawn


# Known answers ----------------------------------------------------------------------------------


def _answers() -> dict[str, Any]:
    """Return what methods give for the papers' functions."""
    z_rule = functools.partial(xattr.lrp, composite=composites.every_layer(rules.zero()))
    maps: dict[str, Any] = {}
    for name, function, x in (
        ("saturated", functions.saturated, [2.0]),
        ("gated", functions.gated, [3.0, 1.0]),
        ("figure 7, f", functions.figure_7f, [3.0, 1.0]),
        ("figure 7, g", functions.figure_7g, [3.0, 1.0]),
        ("figure 14, a", functions.figure_14a, [1.0, 1.0]),
        ("figure 14, b", functions.figure_14b, [1.0, 1.0]),
    ):
        at, zero = jnp.asarray(x), jnp.zeros(len(x))
        maps[name] = {
            "gradient": xattr.gradient(function, at),
            "integrated_gradients": axiom_rows.exact(function, at, zero),
            "deep_lift": xattr.deep_lift(function, at),
            "lrp": z_rule(function, at),
            "deconvnet": xattr.deconvnet(function, at),
            "guided_backprop": xattr.guided_backprop(function, at),
        }
    zero, one, two = jnp.zeros(2), jnp.ones(2), jnp.array([1.0, 2.0])
    maps["clipped product"] = {
        "straight": axiom_rows.IG(functions.clipped_product, one, zero),
        "bent": axiom_rows.along(axiom_rows.bent, functions.clipped_product, one, zero),
    }
    maps["product at (1, 2)"] = {
        "straight": axiom_rows.IG(functions.product, two, zero),
        "depends on its ends": axiom_rows.along(axiom_rows.own_pace, functions.product, two, zero),
    }
    moved = [problem("shifted-relu", seed=seed, shift=[2.5, 1.0, 0.0, -1.5]) for seed in range(5)]
    measured = [
        axiom_rows.gap("pattern_attribution, linear", "input_invariance", each) for each in moved
    ]
    maps["linear patterns of dense networks"] = max(map(float, measured))
    return maps


def _bend(x: jax.Array, kink: jax.Array) -> jax.Array:
    return jax.nn.relu(x - kink)


def _kinks(count: int) -> dict[str, Any]:
    """Return by how much integrals in float32 miss the change of functions with kinks."""
    fifty = functools.partial(
        xattr.integrated_gradients, quadrature=quadrature.gauss_legendre(50), chunk_size=50
    )
    misses: dict[str, Any] = {}
    x, zero = jnp.float32(1), jnp.float32(0)
    cases = [(_bend, x, zero, (jnp.float32(c),)) for c in (np.arange(count) + 0.5) / count]
    cases.append((_bend, x, zero, (jnp.float32(0.3),)))
    networks = [problem("dense-relu", seed=seed) for seed in range(count)]
    mlps = [(p.f, 2 * p.x, p.baseline, p.args) for p in networks]
    for name, list_of_cases in (("ReLU(x − c)", cases), ("dense-relu", mlps)):
        rows = []
        for f, end, start, args in list_of_cases:
            fixed = fifty(f, end, start, args=args)
            adaptive = xattr.integrate_to_tolerance(
                f, paths.straight_line(baseline=start, x=end), rtol=1e-4, atol=1e-5, args=args
            )
            maps = (fixed, adaptive.attributions)
            gaps = [xattr.completeness_gap(f, m, end, start, args=args) for m in maps]
            rows.append([abs(float(gap)) for gap in gaps] + [int(adaptive.evaluations)])
        table = np.array(rows)
        misses[name] = {
            "fixed": table[:, 0],
            "adaptive": table[:, 1],
            "evaluations": table[:, 2],
        }
    return misses


# Report -----------------------------------------------------------------------------------------


def _symbols(row: Mapping[str, Entry]) -> str:
    return "".join(entry.symbol for entry in row.values())


def _numbers(entry: Entry) -> dict[str, Any]:
    verdict = entry.verdict
    gap = (np.nan, np.nan) if verdict.gap is None else verdict.gap
    value, tolerance = map(float, gap)
    return {
        "symbol": entry.symbol,
        "examples": verdict.examples,
        "uncovered": verdict.uncovered,
        "gap": value,
        "tolerance": tolerance,
        "counterexample": _arguments(verdict.counterexample),
        "why": entry.why,
    }


def _arguments(found: Problem | None) -> dict[str, Any] | None:
    """Return what `xattr.testing.problem` makes the problem of."""
    if found is None:
        return None
    fixed = {"name": found.name, "seed": found.seed, "x": found.x, "baseline": found.baseline}
    fixed |= found.options
    return {name: list(v) if isinstance(v, tuple) else v for name, v in fixed.items()}


def _power(value: float) -> str:
    """Write a number in few characters: 0, .25, 1.5, 2e−7."""
    if value == 0 or not np.isfinite(value):
        return "0" if value == 0 else str(value)
    if value < 1e-2 or value >= 1e3:
        text = f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
        return text.replace("-", "−")
    text = f"{value:.2g}" if value < 100 else f"{value:.0f}"
    return text.removeprefix("0") if text.startswith("0.") else text


def _gap(entry: Entry) -> float:
    return float(entry.verdict.gap) if entry.verdict.gap is not None else float("nan")


def _cell(entry: Entry) -> str:
    if entry.symbol == SILENT:
        return "·"
    verdict = entry.verdict
    if entry.symbol == FAILS:
        return f"**fails** {_power(_gap(entry))}"
    assert verdict.gap is not None
    return (
        f"holds {verdict.examples}: {_power(_gap(entry))} ≤ {_power(float(verdict.gap.tolerance))}"
    )


def _grid_table(grid: Grid) -> Table:
    rows = [[name, *(_cell(entry) for entry in row.values())] for name, row in grid.items()]
    return Table(
        "All entries: examples tried, largest gap ≤ its tolerance; gap of the counterexample",
        ["method", *AXIOMS],
        rows,
    )


def _entries(grid: Grid, symbol: str) -> Iterator[tuple[str, str, Entry]]:
    for name, row in grid.items():
        for axiom, entry in row.items():
            if entry.symbol == symbol:
                yield name, axiom, entry


def _failures(grid: Grid) -> Table:
    rows = [
        [name, axiom, _power(_gap(entry)), f"`gap({name!r}, {axiom!r}, {_pasted(entry)})`"]
        for name, axiom, entry in _entries(grid, FAILS)
    ]
    return Table("Counterexamples, to paste", ["method", "axiom", "gap", "expression"], rows)


def _pasted(entry: Entry) -> str:
    return repr(entry.verdict.counterexample).removeprefix("xattr.testing.")


def _silences(grid: Grid) -> Table:
    by_reason: dict[tuple[str, str], list[str]] = {}
    for name, axiom, entry in _entries(grid, SILENT):
        by_reason.setdefault((name, entry.why), []).append(axiom)
    rows = [
        [name, why, "all" if len(names) == len(AXIOMS) else ", ".join(names)]
        for (name, why), names in by_reason.items()
        if why not in {AXIOMS[axiom].methods.otherwise for axiom in names}
    ]
    return Table(
        "Not applicable (beside zero_at_baseline without a baseline, and time_reparametrization "
        "of what is no path integral)",
        ["method", "why", "axioms"],
        rows,
    )


def _uncovered(grid: Grid) -> Table:
    rows = [
        [name, str(sum(counts)), str(sum(e.verdict.examples for e in row.values()))]
        for name, row in grid.items()
        if any(counts := [entry.verdict.uncovered for entry in row.values()])
    ]
    return Table(
        "Methods that raise UncoveredPrimitiveError on some functions",
        ["method", "problems not covered", "problems measured"],
        rows,
    )


# Claims -----------------------------------------------------------------------------------------


def _vector(values: Any) -> str:
    return "(" + ", ".join(_plain(float(v)) for v in np.asarray(values)) + ")"


def _plain(value: float) -> str:
    """Write a number as the papers do: −.5, .1667, 2."""
    text = f"{abs(value):.4g}"
    return ("−" if value < 0 else "") + (text.removeprefix("0") if "." in text else text)


def _is(values: Any, expected: Any, tolerance: float = 1e-9) -> bool:
    return bool(np.allclose(np.asarray(values), expected, rtol=0, atol=tolerance))


def _claims(grid: Grid, answers: Mapping[str, Any], kinks: Mapping[str, Any]) -> list[Claim]:
    return [
        *_sensitivity_claims(answers),
        *_implementation_claims(answers),
        *_path_claims(grid, answers),
        *_shift_claims(grid, answers),
        *_kink_claims(kinks),
    ]


def _sensitivity_claims(answers: Mapping[str, Any]) -> list[Claim]:
    saturated, gated = answers["saturated"], answers["gated"]
    return [
        Claim(
            "the gradient breaks sensitivity(a) on 1 − ReLU(1 − x) at 2 (ICML §2.1)",
            "gradient 0, though f goes from 0 to 1",
            f"gradient {_vector(saturated['gradient'])}, integrated gradients "
            f"{_vector(saturated['integrated_gradients'])}",
            _is(saturated["gradient"], [0]) and _is(saturated["integrated_gradients"], [1]),
        ),
        Claim(
            "DeConvNet and guided backprop miss x₂ in ReLU(x₁ − 1 − ReLU(x₂)) at (3, 1) (ICML "
            "app. B)",
            "0 for x₂",
            f"{_vector(gated['deconvnet'])} and {_vector(gated['guided_backprop'])}; gradient "
            f"{_vector(gated['gradient'])}",
            all(_is(gated[name], [1, 0]) for name in ("deconvnet", "guided_backprop")),
            "the signal that comes back is negative; §2.1 of the paper gives another cause, the "
            "forward state, at which DeConvNet does not look",
        ),
        Claim(
            "LRP and DeepLIFT keep sensitivity(a) (ICML §2.1): on 1 − ReLU(1 − x) at 2",
            "both do, by a baseline and discrete gradients",
            f"DeepLIFT {_vector(saturated['deep_lift'])}, LRP-0 {_vector(saturated['lrp'])}",
            _is(saturated["deep_lift"], [1]) and _is(saturated["lrp"], [1]),
            "LRP's z-rule has no baseline: the hidden unit is off, and all relevance goes to the "
            "bias",
        ),
    ]


def _implementation_claims(answers: Mapping[str, Any]) -> list[Claim]:
    claims = []
    printed = {
        ("figure 7, f", "figure 7, g"): ([1.5, -0.5], [1.5, -0.5], [2, -1], "ICML figure 7"),
        ("figure 14, a", "figure 14, b"): (
            [0.25, 0.25],
            [1 / 6, 1 / 3],
            [0.25, 0.25],
            "Gradients of Counterfactuals, figure 14",
        ),
    }
    for pair, (same, first, second, source) in printed.items():
        one, other = (answers[name] for name in pair)
        for name, title in (("deep_lift", "DeepLIFT"), ("lrp", "LRP-0")):
            claims.append(
                Claim(
                    f"{title} breaks implementation invariance ({source})",
                    f"{_vector(first)} and {_vector(second)}",
                    f"{_vector(one[name])} and {_vector(other[name])}",
                    _is(one[name], first) and _is(other[name], second),
                    "bias left out of the denominator; with it LRP-0 is gradient ⊙ input"
                    if name == "lrp"
                    else "rescale",
                )
            )
        maps = (one["integrated_gradients"], other["integrated_gradients"])
        claims.append(
            Claim(
                f"integrated gradients keep implementation invariance ({source})",
                f"{_vector(same)} for both",
                " and ".join(map(_vector, maps)),
                all(_is(each, same) for each in maps),
            )
        )
    one, other = (answers[name] for name in ("figure 14, a", "figure 14, b"))
    claims.append(
        Claim(
            "DeConvNet and guided backprop break implementation invariance (figure 14)",
            "(1.25, .75) and (1, 1)",
            " and ".join(_vector(each["deconvnet"]) for each in (one, other)),
            all(
                _is(one[name], [1.25, 0.75]) and _is(other[name], [1, 1])
                for name in ("deconvnet", "guided_backprop")
            ),
            "the networks of figure 14 are not printed: these are two equal ones that give its "
            "numbers",
        )
    )
    return claims


KEPT = ("completeness", "sensitivity_b", "linearity", "implementation_invariance")


def _path_claims(grid: Grid, answers: Mapping[str, Any]) -> list[Claim]:
    clipped, product = answers["clipped product"], answers["product at (1, 2)"]
    others = [name for name in grid if name.startswith("path_integral")]
    bent = [name for name in others if "ends" not in name]
    kept = [grid[name][axiom].symbol for name in others for axiom in KEPT]
    broken = [grid[name]["symmetry"].symbol for name in bent]
    own = grid["path_integral, depends on its ends"]["symmetry"]
    return [
        Claim(
            "paths that are not straight keep completeness, dummy, linearity and implementation "
            "invariance (ICML prop. 2)",
            "all path methods do",
            f"{kept.count(HOLDS)} of {len(kept)} entries hold: {', '.join(others)}",
            set(kept) == {HOLDS},
        ),
        Claim(
            "a path on which one feature runs ahead breaks symmetry (ICML theorem 1)",
            "the features get unequal shares",
            f"{_vector(clipped['bent'])} along the path of the proof, "
            f"{_vector(clipped['straight'])} along the straight line; "
            f"{broken.count(FAILS)} of {len(broken)} such paths break it",
            _is(clipped["bent"], [0.05, 0.2], 1e-6) and set(broken) == {FAILS},
            "the proof's function jumps: this is its continuous form, a = ¼ and b = ¾",
        ),
        Claim(
            "integrated gradients are the only path method that preserves symmetry (ICML theorem "
            "1)",
            "the only one",
            f"γᵢ = x'ᵢ + Δᵢ α^(1 + |Δᵢ|) preserves it ({own.verdict.examples} examples) and gives "
            f"{_vector(product['depends on its ends'])} for x₁x₂ at (1, 2), not "
            f"{_vector(product['straight'])}",
            own.symbol == FAILS,
            "the proof takes one pair of ends; a path may depend on its ends (Lerma & Lucas 2021)",
        ),
    ]


def _shift_claims(grid: Grid, answers: Mapping[str, Any]) -> list[Claim]:
    stated = [
        ("gradient", HOLDS, "§3.2", ""),
        ("gradient_x_input", FAILS, "§3.3.1", ""),
        ("integrated_gradients", FAILS, "zero or another fixed baseline, §3.3.1", ""),
        (
            "integrated_gradients, moving baseline",
            HOLDS,
            "one that moves with the input, §3.3.1",
            "",
        ),
        (
            "pattern_attribution, relu",
            HOLDS,
            "patterns estimated anew for ReLUs, §3.3.2",
            "E₊[x y] − E₊[x] E[y] moves by m (E₊[y] − E[y])",
        ),
        ("pattern_attribution, kept patterns", HOLDS, "patterns of network 1, §3.3.2", ""),
    ]
    claims = []
    for name, expected, where, why in stated:
        if name not in grid:
            continue
        entry = grid[name]["input_invariance"]
        found = {
            HOLDS: f"at most {_power(_gap(entry))} on {entry.verdict.examples} examples",
            FAILS: f"broken by {_power(_gap(entry))}",
        }[entry.symbol]
        claims.append(
            Claim(
                f"input invariance of {name.replace(',', ':', 1)} (unreliability; {where})",
                "kept" if expected == HOLDS else "broken",
                found,
                entry.symbol == expected,
                why,
            )
        )
    dense = answers["linear patterns of dense networks"]
    claims.append(
        Claim(
            "input invariance of pattern_attribution: linear (unreliability; patterns of the "
            "covariance, estimated anew, §3.3.2)",
            "kept",
            f"dense networks: at most {_power(dense)}",
            dense < 1e-10,
            "not in a convolution, where patches of all places are one sample: a shift that "
            "differs from place to place, or zeros beside the image that do not shift, change its "
            "covariance",
        )
    )
    return claims


def _kink_claims(kinks: Mapping[str, Any]) -> list[Claim]:
    relu, mlp = kinks["ReLU(x − c)"], kinks["dense-relu"]
    count = len(mlp["fixed"])
    return [
        Claim(
            "50 Gauss–Legendre nodes in float32 miss a kink: ReLU(x − c) from 0 to 1",
            "completeness, 1 − c (no paper tells what a fixed rule misses)",
            f"missed by up to {_power(relu['fixed'].max())} over {len(relu['fixed'])} values of c, "
            f"{_power(relu['fixed'][-1])} at c = .3; to a tolerance: "
            f"{_power(relu['adaptive'].max())}",
            bool(relu["fixed"].max() > 5e-3 and relu["adaptive"].max() < 2e-4),
            f"rtol 1e−4, at most {int(relu['evaluations'].max())} gradients",
        ),
        Claim(
            f"the same for {count} ReLU networks of two hidden layers",
            "completeness",
            f"missed by up to {_power(mlp['fixed'].max())} (median "
            f"{_power(float(np.median(mlp['fixed'])))}); to a tolerance: "
            f"{_power(mlp['adaptive'].max())}",
            bool(mlp["fixed"].max() > 5e-3 and mlp["adaptive"].max() < 1e-3),
            f"rtol 1e−4, at most {int(mlp['evaluations'].max())} gradients",
        ),
    ]


# Figure -----------------------------------------------------------------------------------------

COLOURS = {HOLDS: "#b7e0b1", FAILS: "#f3b0a6", SILENT: "#e8e8e8"}


def _draw(grid: Grid) -> Any:
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 1.7 + 0.235 * len(grid)), layout="constrained")
    ax = figure.subplots()
    entries = [list(row.values()) for row in grid.values()]
    ax.imshow([[to_rgb(COLOURS[e.symbol]) for e in row] for row in entries], aspect="auto")
    for y, row in enumerate(entries):
        for x, entry in enumerate(row):
            ax.text(x, y, _short(entry), ha="center", va="center", fontsize=8)
    ax.set_xticks(range(len(AXIOMS)), [name.replace("_", " ") for name in AXIOMS], fontsize=9)
    ax.set_yticks(range(len(grid)), list(grid), fontsize=9)
    ax.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    for label in ax.get_xticklabels():
        label.set(rotation=40, ha="left", rotation_mode="anchor")
    ax.set_xticks(np.arange(1, len(AXIOMS)) - 0.5, minor=True)
    ax.set_yticks(np.arange(1, len(grid)) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="minor", length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(
        "green: holds (✓), on that many examples; red: fails, by that much; grey: not applicable",
        fontsize=9,
    )
    return figure


def _short(entry: Entry) -> str:
    if entry.symbol == SILENT:
        return ""
    return f"✓ {entry.verdict.examples}" if entry.symbol == HOLDS else _power(_gap(entry))


NOTES = (
    "That an axiom holds here says that no function of the menu is a counterexample: evidence, not "
    "proof. Guided backprop, LRP and DeepLIFT keep symmetry where it can be seen in how a function "
    "is written; figure 14's first network is symmetric and not written so.",
    "What may surprise:",
    "- Integrated gradients, DeepLIFT and all path methods miss conservation (Σ A = f(x)): they "
    "sum to f(x) − f(x'), and f of the baseline is not 0 where there are biases. LRP misses it, "
    "too: the bias takes no part, but relevance of a unit that is off, or of a constant beside "
    "it, is lost.\n"
    "- LRP has no baseline and misses completeness for the same reason; conservation is the axiom "
    "that it is made for.\n"
    "- The ε-rule breaks linearity by about ε: its ε does not grow with the function. The z⁺- and "
    "α2β1-rules break it by much: which part of a sum is positive depends on its sign.\n"
    "- Guided backprop, DeConvNet, LRP and DeepLIFT break the dummy axiom, which follows from "
    "implementation invariance: x₃ + f − g of figure 7 is x₃, and gives something to x₁.\n"
    "- Deep Taylor and the flat rule keep input invariance: w² and flat shares in the first layer "
    "do not look at the input. The z-, ε- and z⁺-rules do, and break it.\n"
    "- LRP without the bias keeps affine scale invariance: it takes (z − m) / s for an activation "
    "and passes relevance on. With the bias it is gradient ⊙ input and does not.\n"
    "- SmoothGrad and its relatives are tried with one draw of noise. They keep symmetry in the "
    "mean over draws only. Their noise has a deviation in proportion to max x − min x, which a "
    "shift changes unless it is the same for all features: of the invariance to a constant shift "
    "(unreliability, version 1) nothing is left for a shift by feature.\n"
    "- Expected gradients over three baselines sum to f(x) less the mean of f over these, not to "
    "f(x) − f(x'): with one baseline they are integrated gradients, to their sampling error.\n"
    "- The detour keeps sensitivity(a) by completeness unless other features, which move on the "
    "way, happen to take the whole change. It misses positivity since it is not monotone.\n"
    "- PatternAttribution with linear patterns keeps input invariance in dense networks, and "
    "misses it in the convolution: its samples are the patches of all places, among which a shift "
    "that is not the same everywhere varies.\n"
    "- Patterns are fitted to 64 draws around x: PatternNet and PatternAttribution miss symmetry "
    "by the asymmetry of these draws. PatternNet misses dummy by design: it shows where the signal "
    "lies in the data, also in features that f does not read.\n"
    "- The gradient of a function that rises is nowhere negative; guided backprop loses the "
    "negative signal that makes it so in ReLU(x₁ − x₂) + ReLU(x₂ + c) − ReLU(−x₂ − c).\n"
    "- The edge detector does not see f: it keeps what compares two functions on one input "
    "(implementation invariance) and no more, but that it is never negative.",
)


def _notes(examples: int) -> list[str]:
    return [
        f"Each entry is `xattr.testing.falsify` with {examples} problems in float64, of small "
        "functions of papers and networks with weights by seed. An axiom holds where its gap stays "
        "within the tolerance that quadrature, samples and rounding account for, on all of them; "
        "it fails where one problem exceeds it, which is then made as small as can be.",
        "To see a counterexample:\n\n```python\nimport jax\n"
        "from paper_repro.experiments.axiom_rows import ROWS, gap\n"
        'from xattr.testing import problem\n\njax.config.update("jax_enable_x64", True)'
        "\ngap('gradient', 'sensitivity_a', problem('saturated', x=[2.0], feature=0))\n```\n\n"
        "`ROWS[name].method` is the method with its options.",
        *NOTES,
    ]
