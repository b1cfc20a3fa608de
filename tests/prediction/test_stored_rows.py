"""``embed`` and ``impute`` a chunk of rows at a time: the numbers of one call, whoever does the chunks, in one run or two."""

import os
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import once_there, simulated
from distributed import Client, LocalCluster

import pm_gplvm as gplvm
from pm_gplvm.data.stores import RowStore
from pm_gplvm.prediction import chunks

QUIET = {"progressbar": False, "random_seed": 1}
FEW = {"draws": 100, "n_starts": 4, "num_samples": 2, **QUIET}
COLUMNS = [f"c{i}" for i in range(6)]


@pytest.fixture(scope="module")
def table():
    """60 x 6 of two latent dimensions."""
    return np.asarray(simulated(60, 6))


@pytest.fixture(scope="module")
def fit(table):
    """A fit of the first 40 rows, with names of columns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        Y = pd.DataFrame(table[:40], columns=COLUMNS)
        settings = {"n_inducing": 8, "hold": 2, "max_iter": 20, "chunk_rows": 20}
        return gplvm.fit_variational(Y, 2, **settings, **QUIET)


@pytest.fixture(scope="module")
def new(table):
    """20 rows that the fit has not seen, one of them like none, some with holes."""
    Y = table[40:].copy()
    Y[3] += 6.0 * np.ptp(table)
    Y[2, 1] = Y[11, :4] = np.nan
    return Y


def told(verb, *args, **settings):
    """What a verb returns, in memory, and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = verb(*args, **settings).load()
    return found, [str(w.message) for w in caught]


def assert_same(found, wanted):
    """Equal but for rounding, labels and attributes as they are."""
    assert found.attrs == wanted.attrs
    xr.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-9)


# The same numbers


@pytest.mark.parametrize("verb", [gplvm.embed, gplvm.impute])
def test_chunks_and_workers_change_nothing(verb, fit, new, threads, tmp_path):
    alone, texts = told(verb, fit, new, **FEW)
    here, same = told(verb, fit, new, out=tmp_path / "a.zarr", **FEW)
    xr.testing.assert_identical(here, alone)
    settings = {"chunk_rows": 3, **FEW}
    parted, also = told(verb, fit, new, out=tmp_path / "b.zarr", client=threads, **settings)
    assert_same(parted, alone)
    ours, _ = told(verb, fit, new, out=tmp_path / "c.zarr", **settings)
    xr.testing.assert_identical(parted, ours)
    assert texts == same == also
    strange = [text for text in texts if "3 of 20 rows (3, 14, 9) are explained" in text]
    assert len(strange) == (verb is gplvm.embed)
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "b.zarr", "c.zarr"]


def test_tables_of_every_kind_are_read_where_they_are(fit, new, threads, tmp_path, monkeypatch):
    import zarr

    stored = zarr.open_array(str(tmp_path / "t"), mode="w", shape=new.shape, chunks=(6, 4))
    stored[:] = new
    frame = pd.DataFrame(new, columns=COLUMNS, index=[f"row {i}" for i in range(20)])
    (tmp_path / "parts").mkdir()
    turned = frame[COLUMNS[::-1]]
    turned[:13].to_parquet(tmp_path / "parts" / "0.parquet", index=False)
    turned[13:].to_parquet(tmp_path / "parts" / "1.parquet", index=False)
    labelled = xr.DataArray(frame).assign_coords(stage=("dim_0", np.arange(20) // 5))
    kinds = {"zarr": (stored, new), "parquet": (tmp_path / "parts", new), "frame": (labelled,) * 2}
    monkeypatch.setattr(RowStore, "begin", _with_few_rows(RowStore.begin))
    for kind, (Y, same) in kinds.items():
        out = tmp_path / f"{kind}.zarr"
        places, _ = told(gplvm.embed, fit, Y, out=out, client=threads, chunk_rows=7, **FEW)
        alone, _ = told(gplvm.embed, fit, same, **FEW)
        assert_same(places, alone)
        xr.testing.assert_identical(gplvm.load(out), places)
    assert places["rows"]["obs_new"].to_numpy()[3] == "row 3"


def _with_few_rows(begin):
    """Lay out a store as ever, if what is handed over is a single row."""

    def begun(self, tree, *args):
        assert tree["rows"].sizes["obs_new"] == 1
        return begin(self, tree, *args)

    return begun


def test_what_is_told_of_rows_goes_with_them(table, threads, tmp_path, rng):
    counts = rng.poisson(np.exp(0.3 * table / table.std()))
    batch, offset = np.array(["a", "b"] * 30), rng.normal(size=60) * 0.1
    of_fit = {"likelihood": "poisson", "n_inducing": 6, "epochs": 2, "draws": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        fit = gplvm.fit_svi(
            counts[:40], 2, offset=offset[:40], inputs={"batch": batch[:40]}, **of_fit, **QUIET
        )
    prior = rng.normal(size=(20, 2)), 0.5
    beside = {"prior": prior, "offset": offset[40:], "inputs": {"batch": batch[40:]}}
    alone, _ = told(gplvm.embed, fit, counts[40:], **beside, **FEW)
    parted, _ = told(
        gplvm.embed, fit, counts[40:], out=tmp_path / "p.zarr", chunk_rows=7, **beside, **FEW
    )
    assert_same(parted, alone)
    one = {**beside, "inputs": {"batch": "a"}, "offset": offset}
    with pytest.raises(ValueError, match=r"^offset must have an entry, .* 20 new rows"):
        gplvm.embed(fit, counts[40:], out=tmp_path / "q.zarr", **one, **FEW)


# In two runs


def _ends_after(monkeypatch, n, error):
    """Raise in place of a later note; how many chunks were done after all."""
    noted, note = [], RowStore.note

    def noting(self, index, told):
        if len(noted) == n:
            raise error
        noted.append(index)
        note(self, index, told)

    monkeypatch.setattr(RowStore, "note", noting)
    return noted


@pytest.mark.parametrize("seed", [1, None])
def test_a_run_goes_on_where_it_was_ended(seed, fit, new, tmp_path, monkeypatch):
    out = tmp_path / "places.zarr"
    settings = {**FEW, "random_seed": seed, "out": out, "chunk_rows": 4}
    with monkeypatch.context() as patch:
        noted = _ends_after(patch, 3, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt) as caught:
            gplvm.embed(fit, new, **settings)
        assert noted == [0, 1, 2]
    assert "the same call goes on from there" in caught.value.__notes__[0]
    assert os.listdir(tmp_path) == ["places.zarr.part"]

    with pytest.raises(FileExistsError, match=r"unfinished run was of another draws\."):
        gplvm.embed(fit, new, **{**settings, "draws": 101})
    with pytest.raises(FileExistsError, match=r"unfinished run was of another verb"):
        gplvm.impute(fit, new, **settings)
    other = fit.copy()
    other["approximation"] = fit["approximation"].to_dataset() * 2.0
    with pytest.raises(FileExistsError, match=r"unfinished run was of another fit\."):
        gplvm.embed(other, new, **settings)
    changed = new.copy()
    changed[5] += 1.0
    with pytest.raises(ValueError, match=r"In chunk 1 \(rows 4 to 7\): .* of other rows"):
        gplvm.embed(fit, changed, **settings)

    noted = _ends_after(monkeypatch, 10, KeyboardInterrupt)
    places, texts = told(gplvm.embed, fit, new, **settings)
    assert noted == [3, 4]
    assert any(
        "3 of 20 rows (3, 14, 9)" in text for text in texts
    )  # some of a chunk of the first run
    alone, _ = told(gplvm.embed, fit, new, **FEW)
    if seed is not None:
        assert_same(places, alone)
        return
    assert places.attrs["random_seed"] == "null"
    X = places.posterior["X"]
    np.testing.assert_allclose(
        X.mean(("chain", "draw"))[:3], alone.posterior["X"].mean(("chain", "draw"))[:3], atol=0.2
    )
    assert not np.array_equal(X, alone.posterior["X"])


def test_ctrl_c_ends_a_run_on_a_cluster(fit, new, threads, tmp_path, ctrl_c):
    out = tmp_path / "places.zarr"
    ctrl_c(chunks.Bar, "advance", 2)
    with pytest.raises(KeyboardInterrupt):
        gplvm.embed(fit, new, out=out, client=threads, chunk_rows=4, **FEW)
    places, _ = told(gplvm.embed, fit, new, out=out, chunk_rows=4, **FEW)
    assert_same(places, told(gplvm.embed, fit, new, **FEW)[0])


def test_what_a_worker_leaves_is_done_by_others(fit, new, tmp_path):
    out = tmp_path / "places.zarr"
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": False}
    with LocalCluster(**settings, dashboard_address=":0") as cluster, Client(cluster) as client:

        def leave():
            # What the scheduler does where the connection to a worker breaks.
            scheduler, address = cluster.scheduler, cluster.workers[0].address
            cluster.sync(scheduler.remove_worker, address, stimulus_id="it left")

        with once_there(tmp_path / "places.zarr.part" / "done", "*.json", leave):
            places, _ = told(gplvm.embed, fit, new, out=out, client=client, chunk_rows=2, **FEW)
        assert len(client.scheduler_info()["workers"]) == 1
    assert_same(places, told(gplvm.embed, fit, new, **FEW)[0])


# What is refused


def test_what_cannot_be_stored_says_so(fit, new, threads, tmp_path):
    empty = new.copy()
    empty[5] = np.nan
    (tmp_path / "there.zarr").mkdir()
    (tmp_path / "foreign.zarr.part").mkdir()
    out = tmp_path / "new.zarr"
    for verb in (gplvm.embed, gplvm.impute):
        with pytest.raises(ValueError, match=r"^out must be the path of a new Zarr store"):
            verb(fit, new, client=threads, **FEW)
        with pytest.raises(FileExistsError, match=r"there\.zarr exists"):
            verb(fit, new, out=tmp_path / "there.zarr", **FEW)
        with pytest.raises(FileExistsError, match=r"no run of pm_gplvm"):
            verb(fit, new, out=tmp_path / "foreign.zarr", **FEW)
        with pytest.raises(ValueError, match=r"^out must end in \.zarr"):
            verb(fit, new, out=tmp_path / "new.nc", **FEW)
        with pytest.raises(ValueError, match=r"^Y_new must have the 6 columns"):
            verb(fit, new[:, :5], out=out, **FEW)
        with pytest.raises(ValueError, match=r"^Y_new must have at least one row"):
            verb(fit, new[:0], out=out, **FEW)
        with pytest.raises(ValueError, match=r"^chunk_rows must be a whole number"):
            verb(fit, new, out=out, chunk_rows=0, **FEW)
    assert not out.with_name("new.zarr.part").exists()
    with pytest.raises(ValueError, match=r"^Y_new must be given where rows go in chunks"):
        gplvm.impute(fit, out=out)
    with pytest.raises(ValueError, match=r"^times must be left out where rows go in chunks"):
        gplvm.embed(fit, new, times=np.arange(20), out=out)
    with pytest.raises(ValueError, match=r"In chunk 1 \(rows 4 to 7\): .* 1 row of NaN alone"):
        gplvm.embed(fit, empty, out=out, client=threads, chunk_rows=4, **FEW)
