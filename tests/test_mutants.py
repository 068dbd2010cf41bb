"""The mutants are what they claim to be, and the script that tries them tells the truth."""

import ast
import functools
import inspect
import re

import pytest

import xattr
from tests.mutants import run
from tests.mutants.mutants import MUTANTS, Mutant

UNTRIED = ("plot", "testing")
"""What attributes nothing: pictures, and help for tests."""

INSIDE = {
    "_backward.patterns.fit",
    "_core.chunks",
    "_cpu.convolutions",
    "_cpu.pooling",
    "_cpu.shifted_products",
    "_cpu.linear",
    "_integrate.straight_line",
    "_recognise.affine",
    "axioms.gaps",
}
"""Modules that compute for those that are public."""


@functools.cache
def source_of(file):
    return (run.ROOT / file).read_text(encoding="utf8")


@functools.cache
def code_of(file):
    return ast.dump(ast.parse(source_of(file)))


@functools.cache
def names_in(file):
    body = ast.parse(source_of(file)).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_sources(mutant):
    source = source_of(mutant.file)
    assert source.count(mutant.old) == 1, "the code has changed: change the mutant with it"
    changed = ast.parse(source.replace(mutant.old, mutant.new))
    assert ast.dump(changed) != code_of(mutant.file), "it changes comments or layout alone"
    compile(changed, mutant.file, "exec")


def public_functions():
    for name in sorted({*xattr.__all__} - {*UNTRIED}):
        member = getattr(xattr, name)
        names = member.__all__ if inspect.ismodule(member) and hasattr(member, "__all__") else ()
        yield from (getattr(member, each) for each in names)
        yield member


def test_every_module_that_computes_has_a_mutant():
    public = {f.__module__ for f in public_functions() if inspect.isfunction(f)}
    modules = {mutant.file.removesuffix(".py").replace("/", ".") for mutant in MUTANTS}
    missing = public - modules
    assert not missing, "add a mutant of each to tests/mutants/mutants.py"
    assert {f"xattr.{name}" for name in INSIDE} <= modules


def test_the_mutants_are_many_and_differ():
    assert len(MUTANTS) >= 25
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({mutant[1:4] for mutant in MUTANTS}) == len(MUTANTS)
    assert all(re.fullmatch(r"[a-z0-9-]+", mutant.name) for mutant in MUTANTS)


def test_the_tests_of_the_mutants_are_there():
    for selection in {test for mutant in MUTANTS for test in mutant.tests}:
        file, _, test = selection.partition("::")
        assert not test or test.partition("[")[0] in names_in(file), selection


# The script, on a library of one line -----------------------------------------------------------

TINY = {
    "xattr/__init__.py": "",
    "xattr/tiny.py": "def double(x):\n    return 2 * x\n",
    "tests/test_tiny.py": "from xattr import tiny\n\n\n"
    "def test_double():\n    assert tiny.double(3) == 6\n",
}


def tiny(name, new, tests=("tests/test_tiny.py",)):
    return Mutant(name, "xattr/tiny.py", "2 * x", new, f"it is {new}", tests)


WRONG, EQUAL = tiny("wrong", "3 * x"), tiny("equal", "x * 2")
CRASHES, UNKNOWN = tiny("crashes", "nothing * x"), tiny("unknown", "x")._replace(old="4 * x")


@pytest.fixture
def library(tmp_path):
    for name, text in TINY.items():
        file = tmp_path / "library" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "library"


def test_the_script(library, tmp_path, capsys):
    mutants, out = (WRONG, EQUAL, CRASHES, UNKNOWN), tmp_path / "table.md"
    assert run.main(["--out", str(out)], mutants, library) == 1
    table = out.read_text()
    assert table in capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:-2]]
    assert [row[3] for row in rows] == ["killed", "SURVIVED", "broken", "broken"]
    assert [row[4] for row in rows] == [
        "tests/test_tiny.py::test_double",
        "1 tests pass",
        "tests/test_tiny.py::test_double: NameError: name 'nothing' is not defined",
        "the text to replace is there 0 times",
    ]
    assert "4 mutants: 1 killed, 1 SURVIVED, 2 broken." in table
    assert sorted(tmp_path.iterdir()) == [library, out]
    assert (library / "xattr/tiny.py").read_text() == TINY["xattr/tiny.py"]
    assert run.main(["wrong"], mutants, library) == 0


def test_tests_that_fail_without_a_mutant_show_nothing(library, capsys):
    (library / "xattr/tiny.py").write_text(TINY["xattr/tiny.py"].replace("2 * x", "2 * x + 1"))
    assert run.main([], (WRONG,), library) == 2
    assert "test_double: AssertionError" in capsys.readouterr().err


def test_the_list_and_names(capsys):
    assert run.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(MUTANTS)
    with pytest.raises(SystemExit, match="no mutant has the name nonesuch"):
        run.main(["nonesuch"])
