"""What the API reference is made of: every public name says what it is, and names what exists.

`.ci/run` builds the reference itself with pdoc, and its warnings are errors.
"""

import inspect
import operator
import re
import sys
import types

import pytest

import xattr
from tests.test_api import MODULES

OWNERS = [xattr, *(getattr(xattr, name) for name in MODULES)]
NAMES = {
    f"{owner.__name__}.{name}": getattr(owner, name) for owner in OWNERS for name in owner.__all__
}
FORMS = (types.FunctionType, type, types.ModuleType)


def documented():
    """Each public object and its public methods."""
    for name, value in NAMES.items():
        if isinstance(value, FORMS):
            yield name, value
        if isinstance(value, type):
            fields = getattr(value, "__annotations__", {})  # may have a function as default
            for method, inner in vars(value).items():
                if method[0] != "_" and method not in fields and inspect.isfunction(inner):
                    yield f"{name}.{method}", inner


DOCUMENTED = dict(documented())


def test_every_public_name_is_seen():
    assert {xattr.integrated_gradients, xattr.Quadrature, xattr.rules} <= {*DOCUMENTED.values()}
    constants = {name for name in NAMES if name not in DOCUMENTED}
    for name in constants:  # their docstring is a string below them, or a comment beside them
        assert not isinstance(NAMES[name], FORMS)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_name_has_a_docstring(name):
    text = DOCUMENTED[name].__doc__
    assert text
    assert not re.match(r"\w+\(.*\)$", text.splitlines()[0]), "made by dataclass or NamedTuple"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_names_in_docstrings_exist(name):
    for path in re.findall(r"`xattr\.([\w.]+)", inspect.getdoc(DOCUMENTED[name]) or ""):
        operator.attrgetter(path.rstrip("."))(xattr)


def test_private_rooms_have_no_page():
    """pdoc shows what `__all__` names: a private name there would be a page."""
    assert not [name for name in NAMES if name.rpartition(".")[2].startswith("_")]
    assert not [
        name
        for name, value in NAMES.items()
        if isinstance(value, types.ModuleType) and value not in sys.modules.values()
    ]
