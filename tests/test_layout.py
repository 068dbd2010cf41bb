"""The layout of DESIGN: imports point down one list, and only what is allowed is imported."""

import ast
import importlib.metadata
import sys
from pathlib import Path

import pytest

import xattr

PACKAGE = Path(xattr.__file__).parent
LAYERS = [
    {"types"},
    {"trees", "marks"},
    {"functions", "chunks", "targets"},
    {"quadrature", "_versions", "completeness"},
    {"_jaxpr"},
    {"paths", "sites", "running", "workload"},
    {"graph"},
    {"transposes"},
    {"pooling", "stencils", "convolutions"},
    {"peephole"},
    {"kernel", "elementwise", "softmaxes", "normalizers"},
    {"adaptive", "hoisting"},
    {"gradients"},
    {"integrated", "baselines", "noise", "shifts"},
    {"grouping", "kinks"},
    {"recognise"},
    {"affine"},
    {"backward"},
    {"rules"},
    {"composites"},
    {"rewrite"},
    {"guided", "relevance", "deeplift", "cutting", "places"},
    {"estimation"},
    {"patterns", "layers"},
    {"report"},
    {"perturb", "shapley", "interactions"},
    {"signatures"},
    {"gaps"},
    {"invariances"},
    {"axioms", "plot", "sharding"} | {"sanity", "metrics", "attacks", "competitive", "edges"},
    {"dataset", "compilations", "toys"},
    {"specimens"},
    {"problems"},
    {"strategies", "assertions"},
    {"trials"},
    {"testing"},
    {"__init__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def imports(module):
    """The modules that a file imports, with whether the import stands at its top."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            for alias in node.names:
                name = f"{node.module}.{alias.name}" if node.module == "xattr" else node.module
                yield name, id(node) in top


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    assert module in LEVEL, f"give {module}.py its place in LAYERS"
    for name, _ in imports(module):
        if name.startswith("xattr."):
            imported = name.split(".")[1]
            assert LEVEL[imported] < LEVEL[module], f"{module} imports {imported}, which is above"


@pytest.mark.parametrize("module", MODULES)
def test_only_allowed_packages_are_imported(module):
    for name, at_top in imports(module):
        root = name.split(".")[0]
        if root == "matplotlib":
            assert module == "plot"
            assert not at_top, "matplotlib is imported when a picture is made"
            continue
        if root == "hypothesis":
            assert module in ("strategies", "trials")
            assert not at_top, "hypothesis is imported when something is drawn"
            continue
        assert root in {"xattr", "jax", "numpy", "chex"} or root in sys.stdlib_module_names, name
        assert not name.startswith(("jax._src", "jax.extend")) or module == "_jaxpr"


def test_files_are_short():
    lines = [len(path.read_text().splitlines()) for path in PACKAGE.glob("*.py")]
    assert sum(count < 200 for count in lines) >= len(lines) / 2
    assert max(lines) < 450


def test_this_xattr_is_ours():
    """Another package on PyPI has the import name `xattr`: installing it overwrites this one."""
    assert xattr.__version__ == importlib.metadata.version("xattr-jax")
    assert (PACKAGE / "kernel.py").is_file()
    assert (PACKAGE / "py.typed").is_file()


def test_nothing_optional_is_imported_with_the_package():
    import subprocess

    code = "import sys, xattr; sys.exit(any(map(sys.modules.get, %r)))"
    code %= (("matplotlib", "flax", "hypothesis"),)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
