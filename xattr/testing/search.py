"""Look for problems on which a method misses an axiom."""

import dataclasses
import itertools
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from xattr._core import compilation, trees
from xattr.axioms.gaps import Gap
from xattr.testing.instances import Problem, problem
from xattr.testing.options import floats, like_x
from xattr.testing.registry import AXIOMS, Axiom, axiom_of
from xattr.testing.strategies import problems
from xattr.types import Method, Progress, UncoveredPrimitiveError


class Verdict(NamedTuple):
    """The result of trying an axiom on many problems; see `xattr.testing.falsify`.

    `holds` is None if nothing could be tried: the axiom is for methods of another kind, or the
    method has a rule for none of the functions. `examples` counts the problems measured until one
    failed, `uncovered` those that the method has no rule for. `gap` is that of the
    `counterexample`, or the largest one of the problems that hold.
    """

    axiom: str
    holds: bool | None
    examples: int
    uncovered: int
    gap: Gap | None
    counterexample: Problem | None


def falsify(
    axiom: str,
    method: Method,
    *,
    max_examples: int = 100,
    refined: Sequence[Method] | None = None,
    seed: int = 0,
) -> Verdict:
    """Look for a problem on which a method misses an axiom, and make it as small as can be.

    holds = gap.value ≤ gap.tolerance on all problems drawn, and finite. Inside a test with `@given`
    hypothesis allows no second search: draw from `xattr.testing.problems` and assert one axiom.

    Args:
        axiom: a name of `xattr.testing.AXIOMS`.
        method: a method, `method(f, x, *, args)`, `method(f, x, baseline, *, args)` or, along a
            path, `method(f, path, *, args)`.
        max_examples: how many problems are tried at most.
        refined: more precise versions of the method, whose change estimates its error; () for an
            exact one. If None, the `quadrature` of the method is repeated on pieces.
        seed: the seed of the problems; the same one draws the same problems.

    Returns:
        A `Verdict`.

    Raises:
        ValueError: if there is no such axiom, or the method gives two results for one problem.
        TypeError: if `refined` is a method and not a sequence of them.
        ImportError: if hypothesis is not installed.

    Source:
        MacIver et al. 2019, "Hypothesis: a new approach to property-based testing".

    Example:
        >>> import xattr
        >>> verdict = falsify("sensitivity_a", xattr.gradient)
        >>> verdict.holds, verdict.counterexample.name
        (False, 'saturated')
    """
    record = axiom_of(axiom)
    trees.check_count(max_examples, "max_examples")
    if callable(refined):
        raise TypeError("`refined` must be a sequence of methods: pass [refined]")
    if not record.methods.have(method):
        return Verdict(axiom, None, 0, 0, None, None)
    measured: list[Gap] = []
    failed: list[int] = []
    uncovered = 0

    def fails(candidate: Problem) -> bool:
        nonlocal uncovered
        try:
            gap = candidate.gap(axiom, method, refined=refined)
        except UncoveredPrimitiveError:
            uncovered += 1
            return False
        except Exception as error:
            error.add_note(f"on {candidate!r}")
            raise
        if bool(gap.holds):
            measured.append(gap)
        else:
            failed.append(len(measured) + 1)
        return not bool(gap.holds)

    papers = list(_of_papers(record))[:max_examples]
    found = next(filter(fails, papers), None)
    if found is None and max_examples > len(papers):
        found = find(problems(axiom), fails, max_examples - len(papers), seed)
    if found is not None:
        for part in _simpler(found, record):
            candidate = dataclasses.replace(found, **part)
            falls = record.rises and bool((candidate.x < candidate.baseline).any())
            if not falls and fails(candidate):
                found = candidate
        gap = found.gap(axiom, method, refined=refined)
        return Verdict(axiom, False, failed[0], uncovered, gap, found)
    worst = max(measured, key=float, default=None)
    return Verdict(axiom, True if measured else None, len(measured), uncovered, worst, None)


def _of_papers(axiom: Axiom) -> Iterator[Problem]:
    """Yield the problems of papers, with the inputs that they are discussed for."""
    for name, specimen in axiom.functions.items():
        size = len(specimen.witness)
        tried = {option: [*each.papers(size)] for option, each in axiom.options.items()}
        tried = {option: values for option, values in tried.items() if values}
        for values in itertools.product(*tried.values()) if size else ():
            yield problem(name, **dict(zip(tried, values, strict=True)))


def _simpler(problem: Problem, axiom: Axiom) -> Iterator[dict[str, Any]]:
    """Yield simpler values for the parts of a problem that hypothesis drew by seed."""
    zeros, witness = jnp.zeros_like(problem.x), problem.specimen.witness
    x = {"x": floats(witness)} if witness else {}
    yield from ({**x, "baseline": zeros}, {"baseline": zeros}, x)
    for name, option in axiom.options.items():
        if option.simplest is not None and name in problem.options:
            value = option.simplest
            value = like_x(value, problem.x) if option.is_like_x else value
            yield {"options": {**problem.options, name: value}}


def find(strategy: Any, fails: Callable[[Problem], bool], examples: int, seed: int) -> Any:
    """Return the smallest thing that fails, or None."""
    import hypothesis
    from hypothesis.errors import Flaky, NoSuchExample

    settings = hypothesis.settings(
        max_examples=examples,
        verbosity=hypothesis.Verbosity.quiet,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )
    try:
        return hypothesis.find(strategy, fails, settings=settings, random=random.Random(seed))
    except NoSuchExample:
        return None
    except Flaky as error:
        raise ValueError(
            "`method` gave two results for one problem: bind its random key with functools.partial"
        ) from error


def assert_axioms(
    method: Method,
    claims: Iterable[str],
    *,
    max_examples: int = 100,
    refined: Sequence[Method] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Verdict]:
    """Raise `AssertionError` unless a method keeps every axiom that it claims.

    verdict.holds = gap.value ≤ gap.tolerance on all problems drawn, for every claim. The error
    shows, for each axiom that is missed, the smallest problem found, as lines to paste.

    Args:
        method: a method, `method(f, x, *, args)`, `method(f, x, baseline, *, args)` or, along a
            path, `method(f, path, *, args)`.
        claims: names of `xattr.testing.AXIOMS`.
        max_examples: how many problems of each axiom are tried at most.
        refined: more precise versions of the method, as for `xattr.testing.falsify`.
        seed: the seed of the problems; the same one draws the same problems.
        progress: wraps the loop over the claims, as `tqdm.tqdm` does.

    Returns:
        A dict of `Verdict` by the name of the axiom.

    Raises:
        AssertionError: if an axiom is missed.
        ValueError: if there is no such axiom, or one cannot be tried on the method.
        ImportError: if hypothesis is not installed.

    Source:
        Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks".

    Example:
        >>> import xattr
        >>> verdicts = assert_axioms(xattr.gradient, {"linearity"}, max_examples=10)
        >>> verdicts["linearity"].examples
        10
    """
    compilation.check_callable(method, "method")
    if isinstance(claims, str) or callable(claims) or not claims:
        raise ValueError(
            f"`claims` must be names of axioms, such as {{'linearity'}}, not {claims!r}"
        )
    names = sorted(set(claims), key=lambda name: list(AXIOMS).index(axiom_of(name).name))
    options: dict[str, Any] = {"max_examples": max_examples, "refined": refined, "seed": seed}
    steps = range(len(names)) if progress is None else progress(range(len(names)))
    verdicts = {names[step]: falsify(names[step], method, **options) for step in steps}
    silent = [name for name, verdict in verdicts.items() if verdict.holds is None]
    if silent:
        raise ValueError(
            f"`claims` has {', '.join(silent)}, which cannot be tried: "
            + ", ".join(f"{name} is for {AXIOMS[name].methods.are}" for name in silent)
            + ", with a rule for some of the functions"
        )
    missed = [verdict for verdict in verdicts.values() if not verdict.holds]
    if missed:
        told = [_told(method, verdict, refined is not None) for verdict in missed]
        raise AssertionError("\n\n".join(told))
    return verdicts


def _told(method: Method, verdict: Verdict, has_refined: bool) -> str:
    """Return the text of a counterexample, with lines to paste."""
    name = getattr(method, "__name__", "")
    name = name if name.isidentifier() else "method"
    if getattr(sys.modules["xattr"], name, None) is method:
        name = f"xattr.{name}"
    assert verdict.gap is not None  # of a verdict that does not hold
    value, tolerance = map(float, verdict.gap)
    refined = ", refined=refined" if has_refined else ""
    lines = [
        f"{name} does not keep {verdict.axiom}: gap {value:.3g}, tolerance {tolerance:.1g}",
        f"(example {verdict.examples}, made as small as can be). To see it:",
        "",
        "    import jax, xattr",
        f"    jax.config.update('jax_enable_x64', {jax.config.read('jax_enable_x64')})",
        f"    p = {verdict.counterexample!r}",
        f"    print(p.gap({verdict.axiom!r}, {name}{refined}))",
    ]
    return "\n".join(lines)
