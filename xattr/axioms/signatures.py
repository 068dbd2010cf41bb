"""What kind of method a method is, told from its signature."""

import functools
import inspect

import numpy as np

from xattr import quadrature as quadratures
from xattr._core import compilation
from xattr._integrate import kernel
from xattr.types import Method, Quadrature

REFINEMENTS = ((0.382,), (0.2828, 0.6928), (0.4488,))
"""Where pieces end on which a quadrature is repeated."""


def refinements(method: Method) -> tuple[Method, ...]:
    """Return versions of a method whose `quadrature` is repeated on unequal pieces.

    On equal pieces the nodes of midpoint and Riemann sums are nested, and all would miss a kink
    alike.
    """
    parameter = inspect.signature(method).parameters.get("quadrature")
    if parameter is None:
        return ()
    quadrature = parameter.default
    if quadrature is None or quadrature is parameter.empty:
        quadrature = quadratures.gauss_legendre(kernel.DEFAULT_NODES)
    return tuple(
        functools.partial(method, quadrature=_on_pieces(quadrature, ends)) for ends in REFINEMENTS
    )


def _on_pieces(quadrature: Quadrature, ends: tuple[float, ...]) -> Quadrature:
    """Return a quadrature repeated on the pieces of [0, 1] that end there."""
    nodes, weights = quadratures.checked(quadrature)
    starts = np.array([0.0, *ends])
    sizes = np.diff([*starts, 1.0])
    placed = starts[:, None] + sizes[:, None] * nodes
    return Quadrature(placed.ravel(), (sizes[:, None] * weights).ravel())


def takes_baseline(method: Method) -> bool:
    """Tell whether a method is one of `method(f, x, baseline, *, args)`.

    It is if its third argument is called `baseline` or must be given.
    """
    return any(p.name == "baseline" or p.default is p.empty for p in _positional(method)[2:3])


def takes_path(method: Method) -> bool:
    """Tell whether a method is one of `method(f, path, *, args)`: by its argument's name."""
    return any(parameter.name == "path" for parameter in _positional(method)[1:2])


def _positional(method: Method) -> list[inspect.Parameter]:
    compilation.check_callable(method, "method")
    parameters = inspect.signature(method).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if "args" not in parameters and not takes_any:
        raise TypeError(
            "`method` must take the further arguments of f as `args`: write "
            "def method(f, x, *, args=()) or def method(f, x, baseline, *, args=())"
        )
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter for parameter in parameters.values() if parameter.kind in kinds]
