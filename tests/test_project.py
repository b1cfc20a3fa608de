"""The project around the code: dependencies, layers, the wheel, and what no file may hold."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pm_gplvm"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]

CONDA_TO_PYPI = {
    "matplotlib-base": "matplotlib",
    "python-build": "build",
    "python-graphviz": "graphviz",
}
PYPI_TO_CONDA = {pypi: conda for conda, pypi in CONDA_TO_PYPI.items()}

# Run against the wheel installed alone.
SNIPPET = """
import pm_gplvm

print(pm_gplvm.__file__)
print(pm_gplvm.__version__)
table = pm_gplvm.data.load_digits(n=20)
best = pm_gplvm.fit_map(pm_gplvm.build_model(table), progressbar=False)
again = pm_gplvm.load(pm_gplvm.save(best, "best.nc"))
assert pm_gplvm.predict(again, [[0.0, 0.0]])["mean"].shape == (1, 64)
assert pm_gplvm.plot.latent(again, color="label").get_xlabel() == "latent 0"
assert pm_gplvm.plot.explore(again, path="best.html", grid=5).is_file()
"""

# In two parts, so that no pattern here matches itself.
MACHINE_PATH = re.compile(
    r"(?<![\w.+/=<~$}-])/(?:home|root|Users|work|workspace|tmp|mnt|scratch)(?![\w-])"
    r"|\b[A-Z]:\\Users\\"
)
UNSAFE_MODULES = {"pickle", "cPickle", "joblib", "cloudpickle", "dill"}
LINT_IMPORTS = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"


def run(*args, cwd, env=None):
    return subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
    )


# Dependencies


def pyproject_bounds():
    wanted = {"python": SpecifierSet(PROJECT["requires-python"])}
    for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        wanted[canonicalize_name(requirement.name)] = requirement.specifier
    return wanted


def conda_bounds(environment):
    found = {}
    for entry in environment["dependencies"]:
        if isinstance(entry, str) and entry != "pip":
            name, _, bounds = entry.partition(" ")
            found[canonicalize_name(CONDA_TO_PYPI.get(name, name))] = SpecifierSet(bounds)
    return found


def differences(wanted, found):
    """One line for each change that would make environment.yml equal to pyproject.toml."""
    lines = []
    for name in sorted(wanted.keys() | found.keys()):
        conda = PYPI_TO_CONDA.get(name, name)
        if name not in wanted:
            lines.append(f"remove: {conda}, pyproject.toml has no such dependency")
        elif found.get(name) != wanted[name]:
            bounds = ",".join(sorted(map(str, wanted[name]), reverse=True))
            lines.append(f"write:  - {conda} {bounds}")
    return lines


def test_environment_yml_equals_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    lines = differences(pyproject_bounds(), conda_bounds(environment))
    assert not lines, "environment.yml differs from pyproject.toml\n" + "\n".join(lines)
    assert environment["name"] == "pm_gplvm"
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert "pip" in environment["dependencies"]
    assert environment["dependencies"][-1] == {"pip": ["-e . --no-deps"]}


def test_differences_are_spelled_out():
    wanted = {"matplotlib": SpecifierSet(">=3.9,<4"), "numpy": SpecifierSet(">=2.1,<3")}
    found = {"numpy": SpecifierSet(">=2.1,<4"), "six": SpecifierSet("")}
    assert differences(wanted, found) == [
        "write:  - matplotlib-base >=3.9,<4",
        "write:  - numpy >=2.1,<3",
        "remove: six, pyproject.toml has no such dependency",
    ]


EVERY_REQUIREMENT = sorted(
    {*PROJECT["dependencies"], *(r for e in PROJECT["optional-dependencies"].values() for r in e)}
)


@pytest.mark.parametrize("text", EVERY_REQUIREMENT)
def test_dependency_has_both_bounds(text):
    operators = sorted(bound.operator for bound in Requirement(text).specifier)
    assert operators == ["<", ">="], f"{text} needs one lower and one upper bound"


def test_requires_python():
    assert SpecifierSet(PROJECT["requires-python"]) == SpecifierSet(">=3.12,<3.15")


# The wheel


def test_wheel_works_installed_alone(tmp_path):
    dist = tmp_path / "dist"
    # The sdist, and the wheel from that.
    build = run("-m", "build", "--no-isolation", "--outdir", dist, ROOT, cwd=tmp_path)
    assert build.returncode == 0, build.stdout + build.stderr
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert set(tracked_files()) <= {n.partition("/")[2] for n in archive.getnames()}

    # A wheel of Python files alone is installed by unpacking it, whatever installer is here.
    target = tmp_path / "target"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    # Stubs, scripts and py.typed too, and nothing but the package.
    package = {name for name in tracked_files() if name.startswith("pm_gplvm/")}
    held = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert package <= held
    assert all(name.startswith(("pm_gplvm/", "pm_gplvm-")) for name in held)

    # The editable install puts the checkout on sys.path; without it nothing can be found there.
    alone = f"import sys; sys.path = [p for p in sys.path if p != {str(ROOT)!r}]\n"
    env = {**os.environ, "PYTHONPATH": str(target), "MPLBACKEND": "Agg"}
    result = run("-P", "-c", alone + SNIPPET, cwd=tmp_path, env=env)
    assert result.returncode == 0, result.stdout + result.stderr
    file, version = result.stdout.split("\n")[:2]
    assert Path(file).resolve().is_relative_to(target.resolve()), file
    assert version == PROJECT["version"]


# Layers


@pytest.fixture
def copied_tree(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "pm_gplvm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(tree):
    result = run("-c", LINT_IMPORTS, cwd=tree)
    return result.returncode, result.stdout + result.stderr


def one_module(layer):
    return re.split(r"[|:]", layer)[0].strip(" ()")


def test_imports_keep_to_the_layers(copied_tree):
    code, output = lint_imports(copied_tree)
    assert code == 0, output


def test_import_up_the_layers_is_caught(copied_tree):
    (contract,) = PYPROJECT["tool"]["importlinter"]["contracts"]
    upper, lowest = (one_module(contract["layers"][i]) for i in (0, -1))
    module = copied_tree / "pm_gplvm" / f"{lowest}.py"
    if not module.exists():
        module = copied_tree / "pm_gplvm" / lowest / "__init__.py"
    with module.open("a", encoding="utf-8") as file:
        file.write(f"\nimport pm_gplvm.{upper}\n")
    code, output = lint_imports(copied_tree)
    assert code != 0, output
    assert "BROKEN" in output, output
    assert f"pm_gplvm.{lowest}" in output
    assert f"pm_gplvm.{upper}" in output


# What no file may hold


def tracked_files():
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=60,
    )
    return [n for n in listed.stdout.decode().split("\0") if n and (ROOT / n).is_file()]


def tracked_text_files():
    for name in tracked_files():
        content = (ROOT / name).read_bytes()
        if b"\0" not in content:
            yield name, content.decode("utf-8")


def machine_paths(text):
    return [match.group() for match in MACHINE_PATH.finditer(text)]


def test_no_tracked_file_holds_a_machine_path():
    files = dict(tracked_text_files())
    assert "pyproject.toml" in files, "git tracks nothing here yet"
    found = {name: paths for name, text in files.items() if (paths := machine_paths(text))}
    assert not found


@pytest.mark.parametrize("first", ["home", "root", "work", "tmp", "Users"])
def test_machine_path_is_seen(first):
    assert machine_paths(f'open("/{first}/someone/data.csv")')
    assert machine_paths(f"File /{first}/x.py, line 3")


@pytest.mark.parametrize("text", ["docs/work/a.md", "https://x.org/home/", "</root>", "a/rootless"])
def test_other_path_is_not_seen(text):
    assert not machine_paths(text)


def unsafe_uses(source):
    """Imports that load code from data, eval and exec, and NumPy's pickles."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}:
                found.append(f"line {node.lineno}: {node.func.id}")
            found += [
                f"line {node.lineno}: allow_pickle"
                for keyword in node.keywords
                if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
            ]
        found += [
            f"line {node.lineno}: {name}" for name in names if name.split(".")[0] in UNSAFE_MODULES
        ]
    return found


def test_package_runs_no_code_from_data():
    """But for what a process sends to its own children, through a pipe."""
    sources = sorted(PACKAGE.rglob("*.py"))
    assert sources
    found = {
        path.relative_to(PACKAGE).as_posix(): {use.partition(": ")[2] for use in uses}
        for path in sources
        if (uses := unsafe_uses(path.read_text(encoding="utf-8")))
    }
    assert found == {"core/workers.py": {"cloudpickle"}}
    assert "open(" not in (PACKAGE / "core" / "workers.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import numpy, joblib.parallel as p",
        "def f():\n    from dill import load",
        "from cloudpickle import dumps",
        "x = eval('1')",
        "np.load('a.npy', allow_pickle=True)",
    ],
)
def test_unsafe_use_is_seen(source):
    assert unsafe_uses(source)


@pytest.mark.parametrize("source", ["x = tensor.eval()", "np.load('a.npy', allow_pickle=False)"])
def test_safe_use_is_not_seen(source):
    assert not unsafe_uses(source)
