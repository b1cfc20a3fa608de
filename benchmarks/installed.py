"""The other libraries' environments: which there are, and how they are made."""

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.environment import HERE

FOLDER = HERE / ".peers"

# Each list is one installation; later ones must not pull another build of an earlier one.
# torch is pinned where a CPU build may be at hand (PIP_FIND_LINKS): others are several GB.
REQUIREMENTS = {
    "gpy": [["GPy", "matplotlib"]],
    "gpflow": [["gpflow", "tensorflow-cpu", "numpy<2"]],
    "torch": [["torch==2.13.0"], ["gpytorch", "pyro-ppl"]],
    "jax": [["jax", "numpyro", "gpjax"]],
    "pictures": [["torch==2.13.0"], ["umap-learn"]],
}
PEERS = {
    "GPy": ("gpy", "gpy"),
    "GPflow": ("gpflow", "gpflow"),
    "GPyTorch": ("torch", "gpytorch"),
    "Pyro": ("torch", "pyro"),
    "GPJax": ("jax", "gpjax"),
    "NumPyro": ("jax", "numpyro"),
}


def python_of(family: str) -> Path:
    folder = FOLDER / family
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_installed(family: str) -> bool:
    return (FOLDER / family / ".installed").exists()


def installed_peers(only: list[str] | None = None) -> dict[str, tuple[Path, Path]]:
    """Name of each peer that is there: its interpreter and its script."""
    return {
        name: (python_of(family), HERE / "peers" / f"{script}.py")
        for name, (family, script) in PEERS.items()
        if is_installed(family) and (only is None or name.lower() in only)
    }


def _find_python() -> str | None:
    """A Python that all of them support; run it, as a shim's name may lead nowhere."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in (11, 12, 13):
        for candidate in (f"python3.{minor}", *sorted(pyenv.glob(f"3.{minor}*/bin/python"))):
            check = f"import sys, venv; sys.exit(sys.version_info[:2] != (3, {minor}))"
            try:
                done = subprocess.run([str(candidate), "-c", check], capture_output=True)
            except OSError:
                continue
            if done.returncode == 0:
                return str(candidate)
    return None


def _commands(family: str, interpreter: str) -> list[list[str]]:
    target, python = str(FOLDER / family), str(python_of(family))
    uv = shutil.which("uv")
    links = os.environ.get("PIP_FIND_LINKS")
    if uv:
        make = [uv, "venv", "--quiet", "--clear", "--python", interpreter, target]
        install = [uv, "pip", "install", "--quiet", "--python", python]
        install += ["--find-links", links] if links else []
    else:
        make = [interpreter, "-m", "venv", "--clear", target]
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return [make, *([*install, *packages] for packages in REQUIREMENTS[family])]


def set_up_peers(only: list[str] | None = None) -> bool:
    """Make the environments that are not there yet; say what failed, and go on."""
    # With uv a path is wanted: a bare version would have it fetch one.
    interpreter = shutil.which(_find_python() or "")
    if interpreter is None:
        print("No Python 3.11, 3.12 or 3.13 found: nothing was set up.")
        return False
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    for family in only or REQUIREMENTS:
        mark = FOLDER / family / ".installed"
        if mark.exists():
            print(f"{family}: already there")
            continue
        print(f"{family}: installing ...", flush=True)
        for command in _commands(family, interpreter):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                lines = (done.stderr or done.stdout).strip().splitlines()
                print(f"{family}: skipped, {lines[-1] if lines else 'no message'}")
                break
        else:
            mark.touch()
            print(f"{family}: ready")
    return all(map(is_installed, only or REQUIREMENTS))
