"""What the tests share: seeded numbers, small tables, and the few fits that all look at."""

import os
import shutil
import signal
import threading
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
import xarray as xr
from pytensor.graph.basic import Variable

import pm_gplvm as gplvm

ROOT = Path(__file__).resolve().parents[1]


def simulated(n=12, d=4, *, seed=0, noise=0.1):
    """A table that a two-dimensional RBF model has drawn, with names and classes of its rows."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 2))
    r2 = ((X[:, None] - X[None]) ** 2).sum(axis=-1)
    K = np.exp(-0.5 * r2) + noise**2 * np.eye(n)
    Y = 3.0 + 2.0 * np.linalg.cholesky(K) @ rng.standard_normal((n, d))
    return xr.DataArray(
        Y,
        dims=("obs", "feature"),
        coords={
            "obs": [f"row{i}" for i in range(n)],
            "feature": [f"column{j}" for j in range(d)],
            "label": ("obs", np.where(X[:, 0] > 0, "right", "left")),
        },
    )


@pytest.fixture
def rng():
    return np.random.default_rng(20240607)


@pytest.fixture
def ctrl_c(monkeypatch):
    """Press Ctrl-C as a function is called for the n-th time; twice if that is named twice.

    Python's own handler is set, also in a job in which SIGINT is ignored, and must be there at the end.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def press(owner, name, *times):
        function, calls = getattr(owner, name), count(1)

        def pressing(*args, **kwargs):
            for _ in range(times.count(next(calls))):
                signal.raise_signal(signal.SIGINT)
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, pressing)

    yield press
    after = signal.signal(signal.SIGINT, before)
    assert after is signal.default_int_handler


@pytest.fixture(scope="module")
def threads():
    """A client of two of Dask's workers in this process."""
    from distributed import Client, LocalCluster

    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": False}
    with LocalCluster(**settings, dashboard_address=":0") as cluster, Client(cluster) as client:
        yield client


def assert_written_like(read, alone):
    """All but what takes time or is drawn."""
    for group in read.children:
        assert set(read[group].variables) == set(alone[group].variables)
        for name, value in read[group].variables.items():
            if name != "seconds" and "draw" not in value.dims:
                np.testing.assert_array_equal(value, alone[group][name], err_msg=name)
    assert {"optima_positions"} == alone.children.keys() - read.children.keys()
    assert read.attrs == alone.attrs


@contextmanager
def once_there(folder, pattern, act):
    """Act in a thread of its own as soon as such a file is there; the block must bring that about."""
    ended, acted = threading.Event(), threading.Event()

    def wait():
        while not list(folder.glob(pattern)):
            if ended.wait(0.001):
                return
        acted.set()
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
        assert acted.is_set()
    finally:
        ended.set()
        thread.join(10.0)


def kill_a_worker(client):
    """Kill one of a client's processes."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    os.kill(client.run(os.getpid)[next(iter(workers))], signal.SIGKILL)


@pytest.fixture(scope="session")
def mode():
    """PyTensor's mode for PyMC's own functions: numba would take minutes."""
    return gplvm.model.compile_mode()


@pytest.fixture(scope="session", autouse=True)
def quick_eval():
    """``Variable.eval`` in the package's own mode: numba takes ten seconds and more for a few lines."""
    evaluate, usual = Variable.eval, gplvm.model.compile_mode()

    def quickly(self, given=None, **options):
        return evaluate(self, given, **{"mode": usual} | options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Variable, "eval", quickly)
        yield


@pytest.fixture(scope="session")
def Y():
    """12 x 4, labelled."""
    return simulated()


@pytest.fixture(scope="session")
def objectives(Y):
    """Compiled log-likelihoods of the small table, sigma all of the noise, each made once."""

    @cache
    def compiled(kernel, ard=False, scale="global", prior=False):
        model = gplvm.build_model(Y, kernel=kernel, ard=ard, scale=scale, resolution=0)
        return gplvm.model.compile_objective(model, prior=prior)

    return compiled


@pytest.fixture(scope="session")
def digits():
    """30 x 64: more columns than rows."""
    return gplvm.data.load_digits(n=30)


@pytest.fixture(scope="session")
def model(digits):
    return gplvm.build_model(digits, latent_dim=2)


@pytest.fixture(scope="session")
def best(model):
    """MAP of the digits."""
    return gplvm.fit_map(model, n_restarts=2, random_seed=1, progressbar=False)


@pytest.fixture(scope="session")
def theta(model, best):
    """NUTS over the digits' hyperparameters: 2 chains of 1000 draws."""
    return gplvm.sample_theta(
        model, best, draws=1000, tune=500, chains=2, random_seed=1, progressbar=False
    )


@pytest.fixture(scope="session")
def data_file():
    """Find a file of the real data, or skip."""
    folder = Path(os.environ.get("PM_GPLVM_DATA") or ROOT.parent / "shared" / "data")

    def find(name):
        path = folder / name
        if not path.is_file():
            pytest.skip(f"no {name} in ../shared/data (nor in the folder PM_GPLVM_DATA names)")
        return path

    return find


@pytest.fixture(scope="session")
def oil_100(data_file):
    """The 100 oil flow rows of the tutorials: Y (100, 12) and labels."""
    with np.load(data_file("oil_flow_100.npz")) as file:
        return file["Y"], file["labels"]


@pytest.fixture(scope="session")
def oil_200(data_file):
    """The first 200 training rows of the oil flow data: Y (200, 12) and labels."""
    with np.load(data_file("oil_flow.npz")) as file:
        return file["Y_train"][:200], file["labels_train"][:200]


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A Chromium without a window; in CI it must be there."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if not (chromium and chromedriver):
        message = "no Chromium and chromedriver (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "window-size=1100,900",
        f"user-data-dir={profile}",
        # It is to load what the tests open, and nothing else.
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
    ):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()
