"""The layout of the library: imports point down one list of rooms and one list of files.

Only jax, numpy, chex and the standard library are imported; matplotlib where a picture is made, and
hypothesis where something is drawn.
"""

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

import xattr

PACKAGE = Path(xattr.__file__).parent
ROOMS = [
    {"types"},
    {"_citation", "_core", "groups", "plot", "targets"},
    {"_program", "metrics", "paths", "quadrature"},
    {"_cpu", "_recognise"},
    {"_integrate", "rules"},
    {"_gradients", "_perturb", "composites"},
    {"_backward", "evaluation"},
    {"_layers", "_scale", "attacks", "sanity", "tokens"},
    {"axioms"},
    {"testing"},
    {"__init__"},
]
"""Rooms, from the lowest up: a file imports from its own room and from those below."""

FLOORS = [
    {"_core.caller", "_core.trees"},
    {"_core.deprecated"},
    {"_core.chunks", "_core.compilation"},
    {"_core.completeness", "_core.sampling"},
    {"plot.scales"},
    {"plot.charts", "plot.molecules", "plot.pictures", "plot.words"},
    {"_program.versions"},
    {"_program.jaxpr"},
    {"_program.running", "_program.workload"},
    {"_program.graph"},
    {"_program.cutting"},
    {"_program.lookup"},
    {"_cpu.linear"},
    {"_cpu.convolutions", "_cpu.pooling", "_cpu.shifted_products"},
    {"_cpu.replace"},
    {"_recognise.elementwise", "_recognise.normalizer", "_recognise.softmax"},
    {"_recognise.operation"},
    {"_recognise.handlers"},
    {"_recognise.groups"},
    {"_recognise.grouping"},
    {"_recognise.affine", "_recognise.recognise"},
    {"_recognise.backward"},
    {"_recognise.composite"},
    {"_integrate.kernel"},
    {"_integrate.directional", "_integrate.expected", "_integrate.guided", "_integrate.interval"},
    {"_integrate.sides", "_integrate.straight_line"},
    {"_integrate.adaptive", "_integrate.baselines", "_integrate.exact", "_integrate.hessians"},
    {"_gradients.gradient"},
    {"_gradients.competitive", "_gradients.noise"},
    {"_perturb.coalitions", "_perturb.masks", "_perturb.windows"},
    {"_perturb.exact", "_perturb.sampled"},
    {"evaluation.filling", "evaluation.maps", "evaluation.randomization", "evaluation.stability"},
    {"evaluation.curves"},
    {"evaluation.faithfulness"},
    {"_backward.rewrite"},
    {"_backward.with_rules"},
    {"_backward.deeplift", "_backward.guided", "_backward.lrp"},
    {"_backward.patterns.weights"},
    {"_backward.patterns.fit"},
    {"_backward.patterns.methods"},
    {"_backward.report"},
    {"_layers.hidden"},
    {"_layers.cam"},
    {"_scale.sharding"},
    {"_scale.dataset"},
    {"attacks.shifts"},
    {"attacks.fragility"},
    {"axioms.gaps"},
    {"axioms.comparing"},
    {"axioms.single"},
    {"testing.compilations", "testing.functions", "testing.options"},
    {"testing.registry"},
    {"testing.instances"},
    {"testing.assertions", "testing.strategies"},
    {"testing.search"},
]
"""The files of a room that has several, from the lowest up."""

ROOM = {name: level for level, names in enumerate(ROOMS) for name in names}
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(module):
    """The modules that a file imports, with whether the import stands at its top."""
    tree = ast.parse(FILES[module].read_text())
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                file = name.removeprefix("xattr.") in {*FILES, *ROOM}
                yield name if file else node.module, id(node) in top


@pytest.mark.parametrize("module", FILES)
def test_imports_point_down(module):
    room = module.split(".")[0]
    assert room in ROOM, f"give {room} its place in ROOMS"
    if "." not in module or module.endswith("__init__"):
        rank = len(FLOORS)
    else:
        assert module in FLOOR, f"give {module} its place in FLOORS"
        rank = FLOOR[module]
    for name, _ in imports(module):
        if not name.startswith("xattr."):
            continue
        imported = name.removeprefix("xattr.")
        if imported.split(".")[0] != room:
            assert ROOM[imported.split(".")[0]] < ROOM[room], f"{module} imports {imported}, above"
        else:
            assert FLOOR[imported] < rank, f"{module} imports {imported}, which is above"


@pytest.mark.parametrize("module", FILES)
def test_only_allowed_packages_are_imported(module):
    for name, at_top in imports(module):
        root = name.split(".")[0]
        if root == "matplotlib":
            assert module.startswith("plot.")
            assert not at_top, "matplotlib is imported when a picture is made"
            continue
        if root == "rdkit":
            assert module == "plot.molecules"
            assert not at_top, "RDKit is imported when a molecule is drawn"
            continue
        if root == "hypothesis":
            assert module in ("testing.options", "testing.strategies", "testing.search")
            assert not at_top, "hypothesis is imported when something is drawn"
            continue
        assert root in {"xattr", "jax", "numpy", "chex"} or root in sys.stdlib_module_names, name
        assert not name.startswith(("jax._src", "jax.extend")) or module == "_program.jaxpr"


def test_paper_repro_uses_only_what_is_public():
    files = sorted((PACKAGE.parent / "paper_repro").rglob("*.py"))
    assert files
    for path in files:
        private = re.findall(r"xattr(?:\.\w+)*(?:\.| import )_[a-z]\w*", path.read_text())
        assert not private, path.name


def lines_of_code(path):
    """The lines of a file that are not in a docstring."""
    tree = ast.parse(path.read_text())
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    return len(path.read_text().splitlines()) - sum(
        text.end_lineno - text.lineno + 1 for text in texts if isinstance(text.value, str)
    )


def test_files_are_short():
    lines = [lines_of_code(path) for path in FILES.values()]
    assert sum(count < 150 for count in lines) >= len(lines) / 2
    assert max(lines) < 400


def test_this_xattr_is_ours():
    """Another package on PyPI has the import name `xattr`: installing it overwrites this one."""
    assert xattr.__version__ == importlib.metadata.version("xattr-jax")
    assert (PACKAGE / "_integrate" / "kernel.py").is_file()
    assert (PACKAGE / "py.typed").is_file()


def test_nothing_optional_is_imported_with_the_package():
    import subprocess

    code = "import sys, xattr; sys.exit(any(map(sys.modules.get, %r)))"
    code %= (("matplotlib", "flax", "hypothesis", "rdkit"),)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_public_names_are_shown():
    assert set(dir(xattr)) == {*xattr.__all__, "__version__"}
    assert all(hasattr(xattr, name) for name in xattr.__all__)
