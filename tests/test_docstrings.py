"""The form of docstrings, over every public function."""

import inspect
import re

import pytest

from tests.test_api import PUBLIC

SECTIONS = ("Args", "Returns", "Raises", "Source", "Example")
WITHOUT_FORMULA = (
    "_citation",
    "testing",
    "plot",
    "sanity",
    "composites",
    "_scale",
    "_backward",
    "groups",
)
"""Modules whose functions help, and need not compute what a formula says."""


def sections(text):
    """The sections of a docstring: their names in order, and their text."""
    parts = re.split(r"^(\w+):$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def raises(function):
    return re.search(r"^\s+raise ", inspect.getsource(inspect.unwrap(function)), re.M)


@pytest.mark.parametrize("function", PUBLIC)
def test_form(function):
    text = inspect.getdoc(function)
    first, blank = text.splitlines()[:2]
    assert first.endswith("."), "the first line is a sentence"
    assert len(first) < 100
    assert not blank
    found = sections(text)
    assert [name for name in found if name in SECTIONS] == [s for s in SECTIONS if s in found]
    parameters = inspect.signature(function).parameters
    needed = {"Args"} if parameters else set()
    needed |= {"Returns", "Example"} | ({"Raises"} if raises(function) else set())
    built = function.__module__ in ("xattr.rules", "xattr.composites")
    needed |= set() if built else {"Source"}
    assert needed <= found.keys(), f"lacks {sorted(needed - found.keys())}"
    assert ">>> " in found["Example"]


@pytest.mark.parametrize("function", PUBLIC)
def test_every_argument_is_described(function):
    text = sections(inspect.getdoc(function)).get("Args", "")
    described = re.findall(r"^    \*{0,2}(\w+): \S", text, re.M)
    assert described == [*inspect.signature(function).parameters]


@pytest.mark.parametrize("function", PUBLIC)
def test_what_computes_has_its_formula(function):
    module = function.__module__.removeprefix("xattr.").split(".")[0]
    if module in WITHOUT_FORMULA:
        return
    before = re.split(r"^\w+:$", inspect.getdoc(function), flags=re.M)[0]
    assert re.search("[=∫Σ∂]", before)
