"""BibTeX of a method's source: its docstring says which, `references.bib` has the entries."""

import functools
import importlib
import inspect
import re
import unicodedata
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

_BIBLIOGRAPHY = Path(__file__).with_name("references.bib")


def citation(method: str | Callable[..., Any]) -> str:
    """Return BibTeX of the sources of a method.

    The entries are those that the section `Source` of its docstring cites, in that order. The file
    `xattr/references.bib` has them all.

    Args:
        method: a function of xattr, a `functools.partial` of one, or its name, such as
            "integrated_gradients" or "rules.gamma". A function of your own works as well if its
            docstring cites papers of `xattr/references.bib`.

    Returns:
        The BibTeX entries, separated by an empty line.

    Raises:
        ValueError: if no public function of xattr has this name, or if the docstring of `method`
            cites no entry of `xattr/references.bib`.
        TypeError: if `method` is neither a name nor callable.

    Source:
        The format is that of Patashnik 1988, "BibTeXing".

    Example:
        >>> import xattr
        >>> print(xattr.citation("integrated_gradients").splitlines()[0])
        @inproceedings{sundararajan2017,
    """
    function = _function(method)
    text = _source(inspect.getdoc(function) or "")
    cited = sorted((place, entry.text) for entry in _entries() if (place := entry.cited_in(text)))
    if not cited:
        raise ValueError(
            f"the docstring of `method`, {getattr(function, '__name__', function)}, cites no entry "
            "of xattr/references.bib under `Source:`: look there for the one that you need"
        )
    return "\n\n".join(entry for _, entry in cited)


def _function(method: Any) -> Any:
    while isinstance(method, functools.partial):  # its own docstring is that of the class
        method = method.func
    if callable(method):
        return method
    if not isinstance(method, str):
        raise TypeError(f"`method` must be a function of xattr or its name, not {method!r}")
    try:
        return _named(method.removeprefix("xattr."))
    except AttributeError:
        raise ValueError(
            "`method` must name a public function of xattr, such as 'integrated_gradients' or "
            f"'rules.gamma', not {method!r}"
        ) from None


def _named(name: str) -> Any:
    if any(part.startswith("_") for part in name.split(".")):
        raise AttributeError(name)
    return attrgetter(name)(importlib.import_module("xattr"))


def _source(docstring: str) -> str:
    """Return what follows `Source:`, up to the next paragraph that is not indented."""
    found = re.search(r"^Source:(.*?)(?=\n\n\S|\Z)", docstring, re.S | re.M)
    return " ".join(found[1].split()) if found else ""


class _Entry(NamedTuple):
    """An entry of the bibliography, and what a docstring cites it by."""

    text: str
    authors: tuple[str, ...]
    year: str
    title: str
    software: str

    def cited_in(self, source: str) -> int:
        """Return where it is cited, counted from 1, or 0."""
        first, *others = map(re.escape, self.authors)
        # All names up to the year: in "Dhamdhere, Sundararajan & Yan 2018" no citation of
        # Sundararajan & Taly 2018 begins. A book may be cited by its title, without a year.
        names = rf"{first}(,? (& )?({'|'.join(others) or first}))*( et al\.)?"
        patterns = [rf"{names},? {self.year}\b", rf'{names}, "{re.escape(self.title)}']
        if self.software:  # as in "zennit's EpsilonPlus" and `jax.shard_map`
            patterns.append(rf"{self.software}['.]")
        found = re.search(rf"\b({'|'.join(patterns)})", _plain(source))
        return found.start() + 1 if found else 0


@functools.cache
def _entries() -> tuple[_Entry, ...]:
    texts = re.findall(r"^@.*?^}", _BIBLIOGRAPHY.read_text(encoding="utf-8"), re.S | re.M)
    return tuple(map(_entry, texts))


def _entry(text: str) -> _Entry:
    fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", text, re.M))
    authors = (author.split(",")[0] for author in _plain(fields["author"]).split(" and "))
    title, software = _plain(fields["title"]), _plain(fields.get("software", ""))
    return _Entry(text, tuple(authors), fields["year"], title, software)


def _plain(text: str) -> str:
    """Return text without accents, in Unicode or in TeX, and without braces, in small letters."""
    letters = unicodedata.normalize("NFD", re.sub(r"\\[\"'`]|[{}]", "", text))
    return "".join(c for c in letters if not unicodedata.combining(c)).lower()
