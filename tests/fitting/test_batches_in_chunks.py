"""``fit_svi`` of tables in chunks: the steps of one process, by threads and by processes, some of which die."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from conftest import assert_written_like, kill_a_worker, once_there, simulated
from distributed import Client, LocalCluster

import pm_gplvm as gplvm
from pm_gplvm.core.cluster import Here
from pm_gplvm.fitting import minibatch_chunks, svi
from pm_gplvm.fitting.minibatch import Optimiser, RowsHere, RowState
from pm_gplvm.fitting.minibatch_chunks import ChunkedRows, Journal, Moved, _job, read_state
from pm_gplvm.fitting.minibatch_tables import read_views
from pm_gplvm.fitting.stochastic import Adam

QUIET = {"progressbar": False, "random_seed": 1}
SHORT = {"n_inducing": 6, "batch_size": 30, "epochs": 30, "draws": 3, "chunk_rows": 9, **QUIET}
COUNTS = {"likelihood": "poisson", "offset": np.linspace(-0.5, 0.5, 60)}
pytestmark = pytest.mark.filterwarnings("ignore:fit_svi ended while its bound:RuntimeWarning")


def holed(kind="gaussian"):
    """60 x 8 of two latent dimensions, some entries missing."""
    rng = np.random.default_rng(3)
    F = np.asarray(simulated(60, 8))
    Y = rng.poisson(np.exp(0.5 * F / F.std() + 1.0)).astype(float) if kind == "poisson" else F
    return np.where(rng.random(Y.shape) < 0.1, np.nan, Y)


@pytest.fixture(scope="module")
def alone():
    """Counts, fitted in chunks by one process."""
    return gplvm.fit_svi(holed("poisson"), 2, **COUNTS, **SHORT)


def assert_equal(fit, other):
    for group in ("posterior", "approximation", "sample_stats"):
        for name, values in other[group].data_vars.items():
            np.testing.assert_array_equal(fit[group][name], values, err_msg=name)


def views_of(Y, **given):
    inputs, priors = given.pop("inputs", None), given.pop("priors", None)
    usual = {"likelihood": "gaussian", "kernel": "rbf", "scale": "global", "offset": None}
    usual |= {"noise_sd": None, "resolution": "auto"}
    return read_views(Y, 2, priors, inputs, ard=True, **usual | given)


def cases():
    rows = [f"r{i}" for i in range(60)]
    frames = {
        "a": pd.DataFrame(holed("poisson"), index=rows),
        "b": pd.DataFrame(holed()[:50, :5], index=rows[:50]),
    }
    known = gplvm.priors.class_mixture(["x", "y", None] * 20)
    placed = gplvm.priors.informative(np.linspace(-1.0, 1.0, 60)[:, None] * [1.0, 0.0], 0.5)
    return {
        "holes": (holed(), {"noise_sd": np.full((60, 1), 0.1), "priors": {"X": placed}}),
        "counts": (holed("poisson"), {**COUNTS, "priors": {"X": known}}),
        "inputs": (holed(), {"inputs": {"dose": np.linspace(0.0, 1.0, 60)}}),
        "tables": (frames, {"likelihood": {"a": "poisson", "b": "gaussian"}}),
    }


@pytest.mark.parametrize("case", cases())
def test_steps_are_those_of_one_process(case, tmp_path):
    Y, given = cases()[case]
    views, rng = views_of(Y, **given), np.random.default_rng(0)
    state, _ = svi._start(views, 2, 5, "pca", rng)
    schedule = svi._schedule(60, 30, 60.0, 0.05)
    job = _job(views, (0, 20, 41, 60), tmp_path, far=True, keeps=True)
    held = ChunkedRows(Here(job), views, state), RowsHere(views, state)
    chunks, plain = (
        Optimiser(views, state, schedule, rows, rng=np.random.default_rng(1)) for rows in held
    )
    batches = [rng.choice(60, 30, replace=False) for _ in range(45)]  # 20 passes, then Adam's steps
    batches[3] = np.arange(15)  # of one chunk
    for number, rows in enumerate(batches):
        found, expected = (each.step(np.sort(rows)) for each in (chunks, plain))
        assert found == pytest.approx(expected, rel=1e-9)
        if number == 41:
            chunks.keep()
            plain.keep()
    compare(chunks, plain)
    assert chunks.bound(np.arange(5, 50)) == pytest.approx(plain.bound(np.arange(5, 50)), rel=1e-9)
    for each in (chunks, plain):
        each.restore()
    compare(chunks, plain)
    assert chunks.bound() == pytest.approx(plain.bound(), rel=1e-9)
    written = read_state(tmp_path, views, 2)  # at the last that was kept
    np.testing.assert_allclose(written.mean, plain.state().mean, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(
        written.functions[0].posterior.means, plain.functions[0].posterior.means, atol=1e-8
    )


def compare(chunks, plain):
    found, expected = chunks.state(), plain.state()
    for one, other in zip(found.rows, expected.rows, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-9)
    for one, other in zip(found.functions, expected.functions, strict=True):
        np.testing.assert_allclose(one.W, other.W, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(one.posterior.means, other.posterior.means, atol=1e-8)
    for name, value in expected.prior.items():
        np.testing.assert_allclose(found.prior[name], value, rtol=1e-8)


def test_batches_are_all_rows_once(tmp_path):
    views = views_of(holed())
    state, _ = svi._start(views, 2, 5, "pca", np.random.default_rng(0))
    bounds = (*range(0, 60, 4), 60)  # more chunks than a group has
    held = ChunkedRows(Here(_job(views, bounds, tmp_path, far=False, keeps=False)), views, state)
    for size, most in ((7, 16), (60, 60)):
        batches = list(held.batches(size, np.random.default_rng(1)))
        rows = np.concatenate(batches)
        assert len(np.unique(rows)) == len(rows) == 60 // size * size
        assert all((np.diff(batch) > 0).all() for batch in batches)
        assert max(len(held._chunks(batch)) for batch in batches) <= most


def test_threads_and_processes_find_the_same(alone, threads, tmp_path):
    Y = holed("poisson")
    plain = gplvm.fit_svi(Y, 2, **COUNTS, **{**SHORT, "chunk_rows": None})
    one, other = (float(fit["sample_stats"]["bound"][0, 0]) for fit in (plain, alone))
    assert other == pytest.approx(one, abs=0.3 * 60)  # by other batches
    assert_equal(gplvm.fit_svi(Y, 2, client=threads, **COUNTS, **SHORT), alone)
    stored = zarr.open_array(
        tmp_path / "Y.zarr", mode="w", shape=Y.shape, chunks=(25, 8), dtype="f8"
    )
    stored[:] = Y
    fit = gplvm.fit_svi(stored, 2, client=threads, **COUNTS, **SHORT)
    assert_equal(fit, alone)
    assert "Y" not in fit["observed_data"]


@pytest.mark.parametrize("case", cases())
def test_a_fit_is_written_by_who_holds_its_rows(case, threads, tmp_path):
    Y, given = cases()[case]
    short = {**SHORT, "epochs": 4}
    alone = gplvm.fit_svi(Y, 2, **given, **short)
    out = tmp_path / "fit.zarr"
    fit = gplvm.fit_svi(Y, 2, client=threads, out=out, **given, **{**short, "draws": 400})
    read = gplvm.load(out)
    assert_written_like(read, alone)
    assert_written_like(fit, alone)
    q = read["approximation"]
    z = ((read.posterior["X"] - q["X_mean"]) / q["X_sd"]).to_numpy()[0]
    assert z.shape == (400, 60, 2)
    assert abs(z.mean()) < 4.0 / np.sqrt(z.size)
    assert abs(z.std() - 1.0) < 4.0 / np.sqrt(2.0 * z.size)
    for name in ("bound", "lp"):
        assert (read.sample_stats[name] == float(alone.sample_stats[name][0, 0])).all()
    assert [path.name for path in tmp_path.iterdir()] == ["fit.zarr"]
    one, other = (gplvm.data.view(f, "a") if case == "tables" else f for f in (fit, alone))
    xr.testing.assert_allclose(gplvm.reconstruct(one), gplvm.reconstruct(other))
    assert gplvm.summary(one)


def test_a_worker_that_dies_changes_nothing(alone, tmp_path):
    folder = tmp_path / "store"
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": True}
    with (
        LocalCluster(**settings, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        once_there(folder, "rows-*/chunk-*/step-000000025.npz", lambda: kill_a_worker(client)),
    ):
        fit = gplvm.fit_svi(holed("poisson"), 2, client=client, store=folder, **COUNTS, **SHORT)
    assert_equal(fit, alone)


def test_files_of_a_chunk_tell_how_it_was_moved(tmp_path, monkeypatch):
    """All steps, what was kept among them, and no more files than are of use."""
    monkeypatch.setattr(minibatch_chunks, "_MOST_FILES", 4)
    rng, journal = np.random.default_rng(0), Journal(tmp_path / "chunk")
    q = RowState(rng.normal(size=(6, 2)), np.ones((6, 2)), np.ones(6))
    journal.begin(q)
    moved = Moved(q.copy_rows(), 0, q.copy_rows(), 0)
    told = {}
    for number in (3, 4, 7, 9, 12, 15, 16, 20):
        journal.shorten(moved)
        moved.keep({9: 8, 12: 8, 15: 8}.get(number, 0))
        rows = np.sort(rng.choice(6, 3, replace=False))
        moved.q.mean[rows] += 1.0
        if number > 7:
            moved.adam = moved.adam or (Adam((6, 2), 0.9), Adam((6, 2), 0.9))
            moved.adam[0](rng.normal(size=(3, 2)), rows)
        moved.at = number
        journal.add(moved, rows)
        told[number] = moved.values(slice(None)).copy(), moved.kept.mean.copy()
    assert len(list((tmp_path / "chunk").iterdir())) <= 6
    for number in (15, 16, 20):
        found = journal.read(number)
        assert (found.at, found.kept_at) == (number, 8)
        np.testing.assert_array_equal(found.values(slice(None)), told[number][0])
        np.testing.assert_array_equal(found.kept.mean, told[number][1])


def test_where_the_bound_falls_an_earlier_state_is_returned(threads, monkeypatch):
    step, kept = Optimiser.step, Optimiser.keep
    seen = []

    def spoiled(self, rows):
        if self.taken > 40:
            functions = self.tables[0].functions
            functions.level = np.full_like(functions.level, 5.0)
        return step(self, rows)

    def noted(self):
        kept(self)
        seen.append(self.state().mean)

    monkeypatch.setattr(Optimiser, "step", spoiled)
    monkeypatch.setattr(Optimiser, "keep", noted)
    with pytest.warns(RuntimeWarning, match="saw its bound fall"):
        fit = gplvm.fit_svi(holed(), 2, client=threads, **SHORT)
    np.testing.assert_array_equal(fit["approximation"]["X_mean"], seen[-1])


def test_a_lost_scheduler_leaves_the_state(tmp_path):
    Y, folder = holed(), tmp_path / "store"
    settings = {"n_workers": 1, "threads_per_worker": 1, "processes": False}
    with (
        LocalCluster(**settings, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        once_there(folder, "rows-*/chunk-*/step-000000030.npz", cluster.close),
        pytest.raises(RuntimeError, match="client has lost its scheduler"),
    ):
        gplvm.fit_svi(Y, 2, client=client, store=folder, **{**SHORT, "epochs": 2000})
    written = read_state(folder, views_of(Y), 2)
    one_step = gplvm.fit_svi(Y, 2, start=folder, **{**SHORT, "epochs": 0.1})
    same = (one_step["approximation"]["X_mean"].to_numpy() == written.mean).all(axis=1)
    assert same.sum() == 30  # those that were not in the batch
    assert len(list(folder.glob("rows-*"))) == 1
    with pytest.raises(ValueError, match="start must be the folder of a fit by fit_svi"):
        gplvm.fit_svi(Y, 2, start=folder, kernel="matern32", **SHORT)
    with pytest.raises(ValueError, match="start must be the folder of a fit of this table"):
        gplvm.fit_variational(np.nan_to_num(Y), 2, start=folder, chunk_rows=9)


def test_ctrl_c_returns_where_it_had_come_to(threads, ctrl_c):
    ctrl_c(Optimiser, "step", 25)
    with pytest.warns(RuntimeWarning, match="was interrupted in run 1 of 1, after 24 steps"):
        fit = gplvm.fit_svi(holed(), 2, client=threads, **SHORT)
    assert fit.attrs["interrupted"]
    assert np.isfinite(fit["approximation"]["X_mean"]).all()


def test_what_cannot_be_fitted_in_chunks_says_so(threads, tmp_path):
    Y = holed()
    with pytest.raises(ValueError, match="n_restarts must be 0 for a fit in chunks, got 2"):
        gplvm.fit_svi(Y, 2, n_restarts=2, **SHORT)
    with pytest.raises(ValueError, match="store is of a fit in chunks"):
        gplvm.fit_svi(Y, 2, store=tmp_path / "new", **QUIET)
    with pytest.raises(ValueError, match="chunk_rows must be a whole number"):
        gplvm.fit_svi(Y, 2, **{**SHORT, "chunk_rows": 1})
    with pytest.raises(ValueError, match="n_workers must be left out where client is given"):
        gplvm.fit_svi(Y, 2, client=threads, n_workers=2, **SHORT)
    with pytest.raises(ValueError, match="Y must not be infinite"):
        gplvm.fit_svi(np.where(np.arange(8) == 3, np.inf, Y), 2, client=threads, **SHORT)
    assert not (tmp_path / "new").exists()
