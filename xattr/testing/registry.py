"""The axioms: one record each, from which strategies, search, assertions and the table derive.

To add an axiom, write its measure in `xattr/axioms/` and an entry here. One of your own is an entry
in `xattr.testing.AXIOMS`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from xattr import axioms
from xattr.axioms import gaps
from xattr.axioms.gaps import Gap
from xattr.testing import functions, options
from xattr.testing.functions import Specimen
from xattr.testing.options import Option
from xattr.types import Method


class Methods(NamedTuple):
    """A kind of methods, for which an axiom is."""

    have: Callable[[Method], bool]
    """Tells whether a method is one of them."""
    are: str
    otherwise: str
    """What is to be said of another method."""


OF_INPUTS = Methods(lambda method: not gaps.takes_path(method), "method(f, x, ...)", "takes a path")
WITH_BASELINE = Methods(
    lambda method: OF_INPUTS.have(method) and gaps.takes_baseline(method),
    "methods with a baseline",
    "takes no baseline",
)
ALONG_PATHS = Methods(gaps.takes_path, "method(f, path, *, args)", "no path integral")


class Axiom(NamedTuple):
    """An axiom: its measure, the functions to try it on, and what a problem of it is made of."""

    measure: Callable[..., Gap]
    """`measure(method, f, ..., *, args, refined)`, as those of `xattr.axioms`."""
    functions: Mapping[str, Specimen]
    """The functions to try it on, by name, the simplest first: what a counterexample shrinks to."""
    presupposes: str = ""
    """What the axiom presupposes of f; if anything, only `functions` are known to keep it."""
    options: Mapping[str, Option] = {}
    """What a problem draws besides an input and a baseline, by the name the measure gives it."""
    rises: bool = False
    """Whether x is nowhere below the baseline: then f rises on the way."""
    methods: Methods = OF_INPUTS
    """The methods that it is for."""
    example: str = "integrated_gradients"
    """A method of `xattr` that keeps it on the simplest problem."""

    @property
    def name(self) -> str:
        """The name of the measure."""
        return self.measure.__name__


AXIOMS: dict[str, Axiom] = {
    axiom.name: axiom
    for axiom in (
        Axiom(axioms.completeness, functions.FUNCTIONS),
        Axiom(
            axioms.sensitivity_a,
            {**functions.TOYS, **functions.NETWORK_SPECIMENS},
            options={"feature": options.FEATURE},
        ),
        Axiom(
            axioms.sensitivity_b,
            functions.DUMMIES,
            presupposes="a feature that f does not depend on",
        ),
        Axiom(
            axioms.implementation_invariance,
            functions.EQUIVALENT,
            presupposes="one function that is written in two ways",
        ),
        Axiom(
            axioms.linearity,
            functions.PAIRS,
            presupposes="two functions of one input",
            options={"a": options.factor(2.0), "b": options.factor(-1.0)},
        ),
        Axiom(
            axioms.symmetry,
            functions.SYMMETRIC,
            presupposes="two features that may change places",
        ),
        Axiom(
            axioms.input_invariance,
            functions.SHIFTED,
            presupposes="a second network whose first bias takes up a shift of the input",
            options={"shift": options.SHIFT},
            example="gradient",
        ),
        Axiom(
            axioms.affine_scale_invariance,
            functions.FUNCTIONS,
            options={"shift": options.SHIFT, "scale": options.SCALE},
        ),
        Axiom(axioms.zero_at_baseline, functions.FUNCTIONS, methods=WITH_BASELINE),
        Axiom(
            axioms.conservation,
            {**functions.TOYS, **functions.UNBIASED, **functions.NETWORK_SPECIMENS},
        ),
        Axiom(
            axioms.positivity,
            functions.RISING,
            presupposes="a function that does not fall from the baseline to x",
            rises=True,
        ),
        Axiom(
            axioms.proportionality,
            functions.OF_SUMS,
            presupposes="a function of the sum of x",
        ),
        Axiom(
            axioms.time_reparametrization,
            functions.FUNCTIONS,
            options={"path": options.PATH, "warp": options.WARP},
            methods=ALONG_PATHS,
            example="path_integral",
        ),
    )
}
"""Name -> axiom: the one list that all else derives from."""


def axiom_of(name: str) -> Axiom:
    """Return an axiom by its name."""
    if name not in AXIOMS:
        raise ValueError(f"there is no axiom {name!r}; the axioms are {', '.join(AXIOMS)}")
    return AXIOMS[name]


def record_of(axiom: str | Callable[..., Gap]) -> Axiom:
    """Return an axiom by name or measure; a measure without an entry presupposes nothing."""
    if isinstance(axiom, str):
        return axiom_of(axiom)
    return AXIOMS.get(axiom.__name__, Axiom(axiom, {}, options=all_options()))


def specimens() -> dict[str, Specimen]:
    """Return the functions of all axioms by name."""
    return {
        name: specimen for axiom in AXIOMS.values() for name, specimen in axiom.functions.items()
    }


def all_options() -> dict[str, Option]:
    """Return the options of all axioms by name."""
    return {name: option for axiom in AXIOMS.values() for name, option in axiom.options.items()}
