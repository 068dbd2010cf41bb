"""BibTeX of the methods' sources."""

import functools
import inspect
import re

import pytest

import xattr
from tests.test_api import PUBLIC
from xattr import _citation

ENTRIES = {re.match(r"@\w+\{(\w+),", e.text)[1]: e for e in _citation._entries()}


def keys(method):
    return re.findall(r"^@\w+\{(\w+),$", xattr.citation(method), re.M)


@pytest.mark.parametrize("function", PUBLIC)
def test_all_that_a_docstring_cites(function):
    source = _citation._source(inspect.getdoc(function))
    named = re.findall(r"[A-Z][\w-]+(?<!arXiv)(?: et al\.)?,? ((?:18|19|20)\d\d)\b", source)
    try:
        cited = [ENTRIES[key].year for key in keys(function)]
    except ValueError:  # its source is another function of xattr, or it has none
        cited = []
    assert [year for year in named if year not in cited] == [], "give it an entry"


def test_every_method_has_a_source():
    for name in xattr.__all__:
        if inspect.isfunction(getattr(xattr, name)):
            assert keys(name), name


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("integrated_gradients", ["sundararajan2017", "sundararajan2016"]),
        ("xattr.integrated_gradients", ["sundararajan2017", "sundararajan2016"]),
        (functools.partial(xattr.integrated_gradients), ["sundararajan2017", "sundararajan2016"]),
        (functools.partial(functools.partial(xattr.lrp), bias="include"), keys("lrp")),
        ("rules.gamma", ["montavon2019", "andeol2021"]),
        ("conductance", ["dhamdhere2018"]),  # not Sundararajan & Taly 2018
        (xattr.quadrature.gauss_legendre, ["davis1984"]),  # cited without a year
        ("composites.preset_a", ["alber2019"]),  # cited as a program
        ("aumann_shapley", ["aumann1974", "sundararajan2016"]),
    ],
)
def test_known(method, expected):
    assert keys(method) == expected


def test_a_function_of_ones_own():
    def own(f, x):
        """Return nothing.

        Source:
            Selvaraju et al. 2017, "Grad-CAM"; Montufar et al. 2014.

        Returns:
            What Bach et al. 2015 do not say.
        """

    assert keys(own) == ["selvaraju2017", "montufar2014"]


@pytest.mark.parametrize(
    ("method", "error", "text"),
    [
        ("integrated_gradient", ValueError, "`method` must name a public function of xattr"),
        ("_core.trees.floating", ValueError, "`method` must name a public function"),
        ("", ValueError, "`method` must name a public function"),
        (lambda f, x: x, ValueError, "the docstring of `method`, <lambda>, cites no entry"),
        (3, TypeError, "`method` must be a function of xattr or its name, not 3"),
    ],
)
def test_errors(method, error, text):
    with pytest.raises(error, match=text):
        xattr.citation(method)


def test_bibliography_is_sorted_and_whole():
    assert len(ENTRIES) == len(_citation._entries())
    assert [*ENTRIES] == sorted(ENTRIES)
    text = _citation._BIBLIOGRAPHY.read_text(encoding="utf-8")
    assert "\n\n".join(e.text for e in ENTRIES.values()) == text[text.index("@") :].rstrip()
    for key, entry in ENTRIES.items():
        assert key == re.sub(r"\W", "", entry.authors[0]) + entry.year
        assert entry.text.count("{") == entry.text.count("}")
        assert entry.text.isascii()
        for line in entry.text.splitlines()[1:-1]:
            assert re.fullmatch(r"  \w+ = \{.+\},", line)
        assert re.search(
            r"^  (journal|booktitle|publisher|eprint|url|note) = |BibTeX", entry.text, re.M
        )
        eprint = re.search(r"eprint = \{(.*)\}", entry.text)
        assert bool(eprint) == ("archiveprefix = {arXiv}" in entry.text)
        assert not eprint or re.fullmatch(r"\d{4}\.\d{4,5}", eprint[1])


def test_every_entry_is_cited():
    cited = set()
    for parameter in PUBLIC:
        try:
            cited |= {*keys(parameter.values[0])}
        except ValueError:
            continue
    assert cited == set(ENTRIES)
