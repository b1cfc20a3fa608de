"""``fit_variational`` of tables in chunks: here, by threads and by processes of a cluster, some of which die."""

import numpy as np
import pytest
import xarray as xr
from conftest import assert_written_like, kill_a_worker, once_there, simulated
from distributed import Client, LocalCluster

import pm_gplvm as gplvm
from pm_gplvm.core.row_chunks import held, points
from pm_gplvm.data.rows import RowTable
from pm_gplvm.fitting.by_chunks import Setting, prepared
from pm_gplvm.fitting.optimise import LIMIT
from pm_gplvm.fitting.variational import induced_coordinates
from pm_gplvm.fitting.vector_free import VectorFree
from pm_gplvm.model.density import compile_log_density

QUIET = {"progressbar": False, "random_seed": 1}
SHORT = {"n_inducing": 6, "hold": 2, "max_iter": 3, "chunk_rows": 19, "draws": 3, **QUIET}
limited = pytest.mark.filterwarnings("ignore:fit_variational:RuntimeWarning")


def asked(**settings):
    usual = {
        "latent_dim": 2,
        "kernel": "rbf",
        "ard": True,
        "priors": None,
        "scale": "global",
        "resolution": "auto",
        "n_inducing": 6,
        "start": "pca",
        "hold": 0,
        "draws": 3,
        "max_iter": 8,
        "tol": 1e-8,
        "random_seed": 1,
    }
    return Setting(**usual | settings)


@pytest.fixture(scope="module")
def table():
    """60 x 12 of two latent dimensions."""
    return np.asarray(simulated(60, 12))


@pytest.fixture(scope="module")
def processes():
    """A client of three processes, which are started anew where they die."""
    settings = {"n_workers": 3, "threads_per_worker": 1, "processes": True}
    with LocalCluster(**settings, dashboard_address=":0") as cluster, Client(cluster) as client:
        yield client


def numbers_of(fit):
    """All that a fit has found."""
    found = {n: v.to_numpy() for n, v in fit["approximation"].data_vars.items()}
    found |= {n: fit.posterior[n].to_numpy() for n in ("X", "lengthscale", "amplitude", "sigma")}
    return found | {"trace": fit["trace"]["objective"].to_numpy()}


def assert_equal(fit, other):
    mine, others = numbers_of(fit), numbers_of(other)
    assert mine.keys() == others.keys()
    for name, value in mine.items():
        np.testing.assert_array_equal(value, others[name], err_msg=name)


# The bound


CLASSES = [None, "a", "b", "c", "a"] * 12
PRIORS = {
    "standard": None,
    "informative": lambda: gplvm.priors.informative(np.tile([0.3, np.nan], (60, 1)), 0.4),
    "classes": lambda: gplvm.priors.class_mixture(CLASSES),
    "held spread": lambda: gplvm.priors.class_mixture(["a", "b"] * 30, within=0.4),
}


@pytest.mark.parametrize(
    ("kernel", "method", "prior"),
    [
        ("rbf", "variational", "standard"),
        ("rbf + bias", "variational", "informative"),
        ("rbf + linear", "variational", "standard"),
        ("matern52", "variational", "held spread"),
        ("linear + bias", "variational", "classes"),
        ("rbf", "sparse", "classes"),
        ("rbf + bias", "sparse", "standard"),
        ("rbf + linear", "sparse", "informative"),
        ("linear + bias", "sparse", "held spread"),
    ],
)
def test_bound_and_gradient_are_those_of_the_model(kernel, method, prior, table, tmp_path, rng):
    ard, scale = kernel != "linear + bias", "feature" if "bias" in kernel else "global"
    priors = {"X": PRIORS[prior]()} if PRIORS[prior] else None
    settings = {"kernel": kernel, "scale": scale, "ard": ard, "priors": priors}
    setting = asked(method=method, **settings)
    bound = prepared(RowTable.of(table), None, tmp_path, 13, setting, rng)
    search = VectorFree(bound, 1, lambda value: None)
    search.begin()
    assert search.run(3, 1e-12) == LIMIT

    model = gplvm.build_model(table, 2, **settings)
    build = getattr(gplvm.model, f"build_{method}")
    density = compile_log_density(build(model, n_inducing=6), coordinates=induced_coordinates)
    executor, current = bound.executor, search.current
    rows = np.concatenate(list(executor.each(points, current)))
    chunks = [held(executor.job, i).iterates.slopes[current] for i in range(executor.job.n_chunks)]
    slopes = np.concatenate(chunks)
    layout = bound.problem.layout
    names = {"X_inducing": "W", **{f"{n}_log__": n for n in layout.names}}
    names |= {"X_centre": "centre", "X_within_log__": "log_within"}

    def vector(rows, shared):
        mean, log_sd = rows[:, :2], rows[:, 2:]
        parts = {"X": mean} if method == "sparse" else {"X_mean": mean, "X_sd_log__": log_sd}
        own = layout.unpack(shared)
        return density.pack(parts | {n: own[of] for n, of in names.items() if n in density.names})

    at = vector(rows, bound.iterates.points[current])
    value, gradient = density(at)
    log_units = 60 * np.log(bound.problem.scale).sum()
    assert -search.value - log_units == pytest.approx(value, rel=1e-10)
    found = -vector(slopes, bound.iterates.slopes[current])
    np.testing.assert_allclose(found, gradient, rtol=1e-9, atol=1e-10 * np.abs(gradient).max())
    assert rows.shape == (60, 2 if method == "sparse" else 4)


def test_chunks_do_not_change_the_fit(table):
    whole, parted = (
        gplvm.fit_variational(table, 3, n_inducing=10, chunk_rows=n, **QUIET) for n in (60, 17)
    )
    names = ("lengthscale", "amplitude", "sigma")
    assert float(whole.sample_stats["lp"][0, 0]) == pytest.approx(
        float(parted.sample_stats["lp"][0, 0]), abs=0.5
    )
    assert set(names) < set(whole.posterior.data_vars)


# Clusters


@pytest.fixture(scope="module")
def alone(table):
    """A short fit in this process."""
    with pytest.warns(RuntimeWarning, match="did not converge"):
        return gplvm.fit_variational(table, 3, **SHORT)


@limited
def test_threads_find_the_same(table, alone, threads):
    assert_equal(gplvm.fit_variational(table, 3, client=threads, **SHORT), alone)


@limited
def test_processes_find_the_same_from_any_kind_of_table(table, alone, processes, tmp_path):
    import anndata
    import dask.array as da
    import pandas as pd
    import zarr

    np.save(tmp_path / "table.npy", table)
    stored = zarr.open(
        str(tmp_path / "table.zarr"), mode="w", shape=table.shape, chunks=(7, 5), dtype="f8"
    )
    stored[:] = table
    frame = pd.DataFrame(table, columns=[f"c{i}" for i in range(12)])
    (tmp_path / "parts").mkdir()
    frame[:25].to_parquet(tmp_path / "parts" / "0.parquet", row_group_size=10)
    frame[25:].to_parquet(tmp_path / "parts" / "1.parquet")
    anndata.AnnData(table).write_h5ad(tmp_path / "table.h5ad")
    kinds = {
        "array": table,
        "memmap": np.load(tmp_path / "table.npy", mmap_mode="r"),
        "zarr": stored,
        "dask": da.from_array(table, chunks=(9, 12)) + 0.0,
        "persisted": processes.persist(da.from_array(table, chunks=(20, 12))),
        "Parquet": tmp_path / "parts",
        "AnnData": anndata.read_h5ad(tmp_path / "table.h5ad", backed="r"),
    }
    for kind, Y in kinds.items():
        fit = gplvm.fit_variational(Y, 3, client=processes, **SHORT)
        assert_equal(fit, alone)
        assert ("Y" in fit["observed_data"]) is (kind == "array"), kind


@limited
@pytest.mark.parametrize("when", [2, 6])
def test_a_worker_that_dies_changes_nothing(when, table, alone, processes, tmp_path):
    folder = tmp_path / "store"
    with once_there(folder, f"chunk-*/{when:08}.npy", lambda: kill_a_worker(processes)):
        fit = gplvm.fit_variational(table, 3, client=processes, store=folder, **SHORT)
    assert_equal(fit, alone)
    processes.wait_for_workers(3)


@limited
def test_a_fit_is_written_by_who_holds_its_rows(table, alone, threads, tmp_path):
    out, written = tmp_path / "fit.zarr", {**SHORT, "draws": 400}
    here, fit = (
        gplvm.fit_variational(table, 3, out=path, client=client, **written)
        for path, client in ((tmp_path / "here.zarr", None), (out, threads))
    )
    xr.testing.assert_identical(fit["posterior"].load(), here["posterior"].load())
    read = gplvm.load(out)
    assert_written_like(read, alone)
    assert read.attrs == fit.attrs
    q = read["approximation"]
    z = ((read.posterior["X"] - q["X_mean"]) / q["X_sd"]).to_numpy()[0]
    assert abs(z.mean()) < 4.0 / np.sqrt(z.size)
    assert abs(z.std() - 1.0) < 4.0 / np.sqrt(2.0 * z.size)
    assert np.abs(np.corrcoef(z.reshape(400, -1).T) - np.eye(180)).max() < 0.3  # chunks apart

    assert gplvm.summary(fit)
    xr.testing.assert_identical(
        gplvm.predict(fit, np.zeros((1, 3))), gplvm.predict(read, np.zeros((1, 3)))
    )
    gplvm.load(gplvm.save(fit, tmp_path / "again.nc"))
    with pytest.raises(FileExistsError, match=r"fit\.zarr exists"):
        gplvm.fit_variational(table, 3, out=out, **SHORT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.nc", "fit.zarr", "here.zarr"]


# What else there is to such a fit


def test_verbs_take_a_fit_that_holds_no_table(table, tmp_path):
    np.save(tmp_path / "table.npy", table)
    Y = np.load(tmp_path / "table.npy", mmap_mode="r")
    fit = gplvm.fit_variational(Y, 2, n_inducing=12, **QUIET)
    assert "Y" not in fit["observed_data"]
    model = gplvm.build_model(table, 2, ard=True)
    other = gplvm.fit_variational(model, n_inducing=12, **QUIET)
    assert float(fit.sample_stats["lp"][0, 0]) == pytest.approx(
        float(other.sample_stats["lp"][0, 0]), abs=3.0
    )
    X = fit["approximation"]["X_mean"].to_numpy()
    mean = gplvm.predict(fit, X)["mean"].to_numpy()
    spread = table.std()
    assert np.sqrt(((mean - table) ** 2).mean()) < 0.3 * spread
    placed = gplvm.embed(fit, table[:4], draws=100, **QUIET).posterior["X"].mean(("chain", "draw"))
    np.testing.assert_allclose(placed.to_numpy(), X[:4], atol=0.3)
    more = gplvm.fit_variational(Y, 2, n_inducing=12, start=fit, hold=0, **QUIET)
    assert len(more["trace"]["objective"]) < 0.5 * len(fit["trace"]["objective"])
    assert float(more.sample_stats["lp"][0, 0]) >= float(fit.sample_stats["lp"][0, 0]) - 1e-6


def test_a_sparse_fit_is_that_of_the_model(table, threads, tmp_path):
    settings = {"n_inducing": 10, **QUIET}
    other = gplvm.fit_sparse(gplvm.build_model(table, 2), **settings)
    alone = gplvm.fit_sparse(table, 2, chunk_rows=60, **settings)
    for name in ("lp", "log_likelihood"):
        found = float(alone.sample_stats[name][0, 0])
        assert found == pytest.approx(float(other.sample_stats[name][0, 0]), abs=0.05)
    short = settings | {"chunk_rows": 19, "max_iter": 2}
    with pytest.warns(RuntimeWarning, match=r"fit_sparse: it did not .* fit_sparse\(Y, start=fit"):
        here, there = (gplvm.fit_sparse(table, 2, client=c, **short) for c in (None, threads))
    for name in ("X", "sigma", "lengthscale"):
        np.testing.assert_array_equal(here.posterior[name], there.posterior[name])
    assert not {"X_mean", "X_sd"} & set(alone["approximation"].data_vars)
    with pytest.warns(RuntimeWarning, match="fit_sparse: it did not"):
        gplvm.fit_sparse(table, 2, client=threads, out=tmp_path / "fit.zarr", **short)
    written = gplvm.load(tmp_path / "fit.zarr")
    assert_written_like(written, here)
    np.testing.assert_array_equal(written.posterior["X"], here.posterior["X"])

    X = alone.posterior["X"][0, 0].to_numpy()
    gplvm.save(alone, tmp_path / "fit.nc")
    read = gplvm.load(tmp_path / "fit.nc")
    mean = gplvm.predict(read, X)["mean"]
    of_model = gplvm.predict(other, other.posterior["X"][0, 0].to_numpy())["mean"]
    np.testing.assert_allclose(mean, of_model, atol=0.02 * table.std())
    np.testing.assert_allclose(gplvm.reconstruct(read)["mean"], mean, rtol=1e-10)
    placed = gplvm.embed(read, table[:3], draws=100, **QUIET).posterior["X"].mean(("chain", "draw"))
    np.testing.assert_allclose(placed, X[:3], atol=0.1)
    holes = np.where(np.arange(12) == 4, np.nan, table[:3])
    filled = gplvm.impute(read, holes, **QUIET)["mean"].to_numpy()
    assert np.abs(filled - table[:3])[:, 4].max() < table.std()
    longer = gplvm.add_rows(read, table[:2] + 0.01, **QUIET)
    np.testing.assert_allclose(longer.posterior["X"][0, 0, 60:], X[:2], atol=0.1)
    told = gplvm.summary(read)
    assert "fit_sparse), M = 10" in str(told)
    assert "spread" not in str(told)
    more = gplvm.fit_sparse(table, 2, chunk_rows=60, start=alone, **settings)
    assert len(more["trace"]["objective"]) < 0.3 * len(alone["trace"]["objective"])


@limited
def test_priors_of_rows_stand_in_the_fit(table, threads, tmp_path):
    near = np.where(np.arange(60)[:, None] < 5, table[:, :2] - table[:, :2].mean(axis=0), np.nan)
    kinds = {
        "informative": gplvm.priors.informative(near, 0.05),
        "classes": gplvm.priors.class_mixture(CLASSES),
    }
    for kind, prior in kinds.items():
        fits = [
            gplvm.fit_variational(table, 2, priors={"X": prior}, client=c, **SHORT)
            for c in (None, threads)
        ]
        assert_equal(*fits)
        out = tmp_path / f"{kind}.zarr"
        gplvm.fit_variational(table, 2, priors={"X": prior}, client=threads, out=out, **SHORT)
        assert_written_like(gplvm.load(out), fits[0])
        model = gplvm.build_model(table, 2, priors={"X": prior}, ard=True)
        again = gplvm.fit_variational(model, **SHORT)
        np.testing.assert_allclose(again["trace"]["objective"], fits[0]["trace"]["objective"])
        if kind == "classes":
            assert fits[0].posterior["X_centre"].sizes["latent_class"] == 3
        else:
            X = fits[0]["approximation"]["X_mean"].to_numpy()
            assert np.abs(X - near)[:5].max() < 0.3


@limited
def test_the_table_of_a_model_goes_to_a_cluster(table, alone, threads):
    model = gplvm.build_model(table, 3, ard=True)
    settings = {n: v for n, v in SHORT.items() if n != "chunk_rows"}
    fit = gplvm.fit_variational(model, client=threads, chunk_rows=19, **settings)
    np.testing.assert_allclose(fit["trace"]["objective"], alone["trace"]["objective"], rtol=1e-10)


def test_what_cannot_be_fitted_in_chunks_says_so(table, threads, tmp_path, monkeypatch):
    holes, odd = table.copy(), table.copy()
    holes[41, 3] = np.nan
    odd[:, 2] = 1.0

    def fit(Y=table, **settings):
        gplvm.fit_variational(Y, 2, **{"chunk_rows": 20, **QUIET, **settings})

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for text, settings in {
        r"NaN|nan in chunk 2 \(rows 40 to 59\), first at row 41, column 3": {"Y": holes},
        "scale='feature' cannot": {"Y": odd, "scale": "feature"},
        r"priors\['X'\] must be priors.informative.* dynamics, which ties all rows": {
            "priors": {"X": gplvm.priors.dynamics(np.arange(60.0))}
        },
        r"got back_constraint, under which X is a function of Y.*fit_marginal": {
            "priors": {"X": gplvm.priors.back_constraint()}
        },
        "kernel must be one of": {"kernel": "periodic[0] * rbf[1]"},
        "start must be one of pca, random": {"start": "isomap"},
        "start must give X": {"start": np.zeros((3, 2))},
        "n_restarts must be 0": {"n_restarts": 2},
        "chunk_rows must be a whole number": {"chunk_rows": 1},
        "n_workers must be left out": {"client": threads, "n_workers": 2},
    }.items():
        with pytest.raises(ValueError, match=text):
            fit(**settings)
    with pytest.raises(ValueError, match="chunk 2"):
        fit(holes, client=threads)
    with pytest.raises(TypeError, match=r"client must be a dask\.distributed\.Client, got str"):
        fit(client="tcp://127.0.0.1:8786")
    with pytest.raises(FileExistsError, match="store must be a new or an empty folder"):
        fit(store=tmp_path / "full")
    known = gplvm.build_model(table, inputs={"batch": ["a", "b"] * (len(table) // 2)})
    with pytest.raises(ValueError, match="a model without inputs where rows go in chunks"):
        gplvm.fit_variational(known, client=threads)
    with pytest.raises(ValueError, match="fit_sparse needs a model without inputs"):
        gplvm.fit_sparse(known, client=threads)
    with pytest.raises(
        ValueError, match="method must be 'vfe' where rows go in chunks, got 'fitc'"
    ):
        gplvm.fit_sparse(table, method="fitc", chunk_rows=20)
    ordered = gplvm.build_model(table, priors={"X": gplvm.priors.dynamics(np.arange(60.0))})
    with pytest.raises(ValueError, match="ties all rows"):
        gplvm.fit_sparse(ordered, chunk_rows=20)
    with pytest.raises(ValueError, match="store is of a fit in chunks"):
        gplvm.fit_variational(gplvm.build_model(table), store=tmp_path / "new")
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(ImportError, match=r"n_workers needs dask.*pm-gplvm\[dask\]"):
        fit(n_workers=2)


@limited
def test_another_fit_goes_on_from_the_store(table, tmp_path):
    settings = {"n_inducing": 6, "chunk_rows": 19, "store": tmp_path / "store", **QUIET}
    first = gplvm.fit_variational(table, 3, hold=2, max_iter=6, **settings)
    reached = first["trace"]["objective"].to_numpy()[-1]
    more = {n: v for n, v in settings.items() if n != "store"} | {"start": tmp_path / "store"}
    second = gplvm.fit_variational(table, 3, max_iter=6, **more)
    trace = second["trace"]["objective"].to_numpy()
    assert trace[0] == pytest.approx(reached, rel=1e-12)
    assert trace[-1] > reached
    with pytest.raises(ValueError, match="start must be the folder of a fit of this table"):
        gplvm.fit_variational(table, 2, **more)


def test_a_lost_scheduler_leaves_the_state(table, tmp_path):
    settings = {"n_workers": 1, "threads_per_worker": 1, "processes": False}
    folder = tmp_path / "store"
    with (
        LocalCluster(**settings, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        once_there(folder, "chunk-*/00000006.npy", cluster.close),
        pytest.raises(RuntimeError, match="client has lost its scheduler"),
    ):
        gplvm.fit_variational(
            table, 3, client=client, store=folder, n_inducing=6, chunk_rows=19, **QUIET
        )
    with pytest.warns(RuntimeWarning, match="did not converge"):
        gplvm.fit_variational(
            table, 3, start=folder, n_inducing=6, chunk_rows=19, max_iter=2, **QUIET
        )


def test_ctrl_c_returns_where_it_had_come_to(table, threads, ctrl_c):
    whole = gplvm.fit_variational(table, 2, n_inducing=6, hold=0, chunk_rows=19, **QUIET)
    ctrl_c(VectorFree, "_accept", 7)
    with pytest.warns(RuntimeWarning, match="fit_variational was interrupted: .* kept"):
        fit = gplvm.fit_variational(
            table, 2, client=threads, n_inducing=6, hold=0, chunk_rows=19, **QUIET
        )
    trace = fit["trace"]["objective"].to_numpy()
    np.testing.assert_array_equal(trace, whole["trace"]["objective"].to_numpy()[: len(trace)])
    assert len(trace) < 12
    assert fit.attrs["interrupted"] == 1
