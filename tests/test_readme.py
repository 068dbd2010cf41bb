"""The pages for readers: their examples run when pasted, their links lead somewhere."""

import re
from pathlib import Path

import jax
import pytest

import xattr
from tests.test_api import MODULES

TOP = Path(__file__).parents[1]
README = (TOP / "README.md").read_text()
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "xattr/README.md"]
PAGES += ["tests/benchmarks/README.md", "notebooks/README.md", "notebooks/coming_from_captum.md"]
BLOCKS = {  # those of the captum page: tests/test_captum_page.py
    f"{page}-{index}": block
    for page in PAGES[:-1]
    for index, block in enumerate(
        re.findall(r"```python\n(.*?)```", (TOP / page).read_text(), re.S)
    )
}
ROWS = re.findall(r"^(`.*) \| (.*) \| (.*)$", README, re.M)


@pytest.mark.parametrize("name", BLOCKS)
def test_example_runs(name, capsys):
    # As a user has it: promotion is not strict.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(BLOCKS[name], name, "exec"), {"__name__": "readme"})
    assert re.search(r"^\[", capsys.readouterr().out, re.M), "it prints attributions"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!http)(.*?)\)", (TOP / page).read_text()):
        assert (TOP / page).parent.joinpath(link).exists(), link


def test_first_example_is_short():
    first = BLOCKS["README.md-0"]
    assert len([line for line in first.splitlines() if line.strip()]) <= 12


def test_readme_is_read():
    assert len(README.split()) <= 1000


def test_table_has_every_method():
    named = [name for names, _, _ in ROWS for name in re.findall(r"`(\w+)`", names)]
    functions = [name for name in xattr.__all__ if callable(getattr(xattr, name))]
    functions = [name for name in functions if not isinstance(getattr(xattr, name), type)]
    assert sorted(named) == sorted(functions), "give each method its line in the README's table"
    modules = README[README.index("Modules: ") :].partition("\n\n")[0]
    assert sorted(re.findall(r"`(\w+)`", modules)) == sorted([*MODULES, "types"])


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_sources_of_the_table_are_those_of_the_docstrings(row):
    names, _, sources = row
    cited = re.findall(r"(\w+) (\d{4})", sources)
    assert cited
    for name in re.findall(r"`(\w+)`", names):
        text = xattr.citation(name)
        for author, year in cited:
            key = author.lower().replace("ú", "u") + year
            assert f"{{{key}," in text, f"{name} does not cite {key}"


def test_version_is_said_once():
    assert f"\nversion: {xattr.__version__}\n" in (TOP / "CITATION.cff").read_text()
    assert f"\n## {xattr.__version__}" in (TOP / "CHANGELOG.md").read_text()
