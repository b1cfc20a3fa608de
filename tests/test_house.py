"""One place for each formula: who may factorise a matrix, and where the kernels are defined."""

import ast
from pathlib import Path

import pytest

from pm_gplvm.core.kernels import KERNELS

PACKAGE = Path(__file__).resolve().parents[1] / "pm_gplvm"
SYMBOLIC = {"model/ops.py"}  # beside core/, the one file that writes factorisations in PyTensor
FACTORISATIONS = {
    *("cholesky", "cho_factor", "cho_solve", "cho_solve_banded", "cholesky_banded", "ldl"),
    *("solve_triangular", "potrf", "potri", "potrs", "pstrf", "trtri", "trtrs", "trsv", "trsm"),
}
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def calls(source):
    """Name and line of every function or method that is called."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            yield name, node.lineno


def factorisations(source):
    plain = FACTORISATIONS | {f"d{name}" for name in FACTORISATIONS}
    return [f"{name} in line {line}" for name, line in calls(source) if name in plain]


def test_a_factorisation_is_found_by_every_way_to_call_it():
    source = (
        "np.linalg.cholesky(A)\ncho_solve((L, True), F)\nlapack.dpotrf(A.T, lower=0)\nblas.dgemm(A)"
    )
    assert len(factorisations(source)) == 3


@pytest.mark.parametrize("name", [n for n in FILES if not n.startswith("core/")])
def test_matrices_are_factorised_in_core_alone(name):
    found = factorisations(FILES[name].read_text(encoding="utf-8"))
    assert not found or name in SYMBOLIC, f"{name} calls {found}: call a function of core/"


def test_kernels_are_defined_in_one_file():
    profiles = {kernel.scaled for kernel in KERNELS.values()} - {None}
    assert {profile.__module__ for profile in profiles} == {"pm_gplvm.core.kernels"}
    names = {profile.__name__ for profile in profiles}
    for name, path in FILES.items():
        source = path.read_text(encoding="utf-8")
        defined = {n.name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)}
        used = {called for called, _ in calls(source)}
        if name != "core/kernels.py":
            assert not names & defined, f"{name} defines a kernel"
            assert "Kernel" not in used, f"{name} makes a kernel of its own"
