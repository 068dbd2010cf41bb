"""Common zeros bring the rank correlation of unrelated positive vectors to one (note, fig. 1)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paper_repro.report.progress import shown
from paper_repro.report.results import Claim, Result, Setting, Table, decimal, interval
from xattr import metrics

SIZE = 784
SHOWN = [56 * i for i in range(14)] + [783]


def closed_form(zeros: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Return the expected rank correlation of two vectors of `size` with k = `zeros` common zeros.

    E ρ = A / (A + q (m² − 1) / 12) with A = p q n² / 4, p = k / n, q = 1 − p and m = n − k. A is
    what the step from zeros to other values, which the vectors share, adds to the variance of the
    ranks; q (m² − 1) / 12 is the variance of the ranks among the others, which they do not share.
    """
    p = np.asarray(zeros) / size
    q, m = 1 - p, size - np.asarray(zeros)
    between = p * q * size**2 / 4
    return between / (between + q * (m**2 - 1) / 12)


def run(setting: Setting) -> Result:
    """Draw pairs of vectors for each number of zeros, and compare with the closed form."""
    zeros = np.arange(0, SIZE, 56 if setting.quick else 7)
    zeros = np.unique([*zeros, *SHOWN])
    pairs = 100 if setting.quick else 2_000
    key = jax.random.key(setting.seed)
    draws = np.stack(
        [
            np.asarray(_correlations(jax.random.fold_in(key, int(k)), int(k), pairs))
            for k in shown(zeros, "numbers of zeros", setting.progress)
        ]
    )
    mean, low, high = interval(draws, axis=1)
    expected = closed_form(zeros)
    half = float(mean[zeros == SIZE // 2][0])
    apart = float(np.abs(mean - expected).max())
    first = int(zeros[np.argmax(mean > 0.8)])
    return Result(
        title="Rank correlation of two positive vectors with common zeros (note, figure 1)",
        figures={"": _draw(zeros, mean, low, high, expected)},
        numbers={
            "zeros": zeros,
            "mean": mean,
            "low": low,
            "high": high,
            "closed_form": expected,
            "pairs": pairs,
            "largest_difference": apart,
            "at_half": half,
            "first_above_0.8": first,
        },
        claims=[
            Claim(
                "correlation when half of the indices are zero in both",
                "more than .8",
                decimal(half, 4),
                half > 0.8,
                "closed form .8571",
            ),
            Claim(
                "correlation saturates to 1 as the zeros increase",
                "saturates",
                f"{decimal(float(mean[-1]), 4)} at k = {zeros[-1]}",
                bool(mean[-1] > 0.999),
            ),
            Claim(
                "largest difference between mean and closed form",
                "≤ .003 (our closed form; not in the note)",
                f"{apart:.4f} over {len(zeros)} numbers of zeros, {pairs} pairs each",
                apart <= 3e-3,
                "" if not setting.quick else "few pairs: the standard error alone is .003",
            ),
        ],
        tables=[
            Table(
                "Mean over the pairs, and the closed form",
                ["common zeros k", *map(str, SHOWN)],
                [
                    ["measured", *(decimal(v, 4) for v in mean[np.isin(zeros, SHOWN)])],
                    ["closed form", *(decimal(v, 4) for v in closed_form(np.array(SHOWN)))],
                ],
            )
        ],
        notes=[
            f"A pair is two vectors of {SIZE} uniform numbers, of which the first k are zero in "
            "both. Its rank correlation takes average ranks for ties; it is undefined when all 784 "
            "are zero."
        ],
    )


@jax.jit(static_argnums=2)
def _correlations(key: Any, zeros: Any, pairs: int) -> jax.Array:
    def one(key: Any) -> jax.Array:
        a, b = jax.random.uniform(key, (2, SIZE), minval=1e-6)
        kept = jnp.arange(SIZE) >= zeros
        return metrics.spearman(jnp.where(kept, a, 0), jnp.where(kept, b, 0))

    return jax.vmap(one)(jax.random.split(key, pairs))


def _draw(
    zeros: np.ndarray, mean: np.ndarray, low: np.ndarray, high: np.ndarray, expected: np.ndarray
) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.subplots()
    ax.fill_between(zeros, low, high, color="tab:blue", alpha=0.3, linewidth=0)
    ax.plot(zeros, mean, color="tab:blue", label="mean over pairs, 95 % band")
    ax.plot(zeros, expected, "k--", linewidth=1, label="closed form")
    ax.axhline(0.8, color="0.6", linewidth=0.8)
    ax.axvline(SIZE / 2, color="0.6", linewidth=0.8)
    ax.set(xlabel="indices that are zero in both, of 784", ylabel="Spearman rank correlation")
    ax.set(xlim=(0, SIZE), ylim=(-0.02, 1.02))
    ax.legend(loc="lower right")
    return figure
