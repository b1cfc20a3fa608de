"""One thread, and what the machine is."""

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from threadpoolctl import threadpool_info

HERE = Path(__file__).resolve().parent
LIBRARIES = (
    *("pm_gplvm", "numpy", "scipy", "pymc", "pytensor", "nutpie", "numba", "jax", "arviz"),
    *("scikit-learn", "matplotlib", "threadpoolctl"),
)
_ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    **dict.fromkeys(("VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
    **dict.fromkeys(("NPROC", "PJRT_NPROC"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "MPLBACKEND": "Agg",
}
# They make OpenBLAS take kernels or blocks of another machine.
_UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def quiet(**more: str) -> dict[str, str]:
    """Environment variables of a process that uses one thread."""
    kept = {name: value for name, value in os.environ.items() if name not in _UNSET}
    return {**kept, **_ONE_THREAD, **more}


def enter_quiet(arguments: list[str]) -> None:
    """Start the program again under that environment, unless it runs there already."""
    environment = quiet()
    if environment != dict(os.environ):
        # The libraries read the variables when they are loaded: too late to set them here.
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks", *arguments], environment)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _command(arguments: list[str]) -> str:
    """As it was given, less the folder that the results went to."""
    at = arguments.index("--output") if "--output" in arguments else len(arguments)
    words = arguments[:at] + arguments[at + 2 :]
    return shlex.join(["python", "-m", "benchmarks", *words])


def facts(arguments: list[str]) -> dict:
    """What a reader needs to judge the figures; no paths, no names of machines."""
    import scipy.linalg  # noqa: F401  threadpoolctl sees what is loaded

    kept = ("internal_api", "version", "architecture", "num_threads")
    blas = [
        {key: pool.get(key) for key in kept}
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    ]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": _command(arguments),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "blas": list({tuple(pool.items()): pool for pool in blas}.values()),
        "versions": {name: _version(name) for name in LIBRARIES if _version(name)},
    }
