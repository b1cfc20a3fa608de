"""Fits on disk: the same numbers back, nothing lost, nothing executed."""

import numpy as np
import pytest
import xarray as xr

import pm_gplvm as gplvm


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_a_fit_comes_back_as_it_was(best, theta, tmp_path, ending):
    for name, fit in {"best": best, "theta": theta}.items():
        again = gplvm.load(gplvm.save(fit, tmp_path / f"{name}{ending}"))
        assert set(again.children) == set(fit.children)
        for group in fit.children:
            xr.testing.assert_identical(
                again[group].to_dataset().drop_attrs(), fit[group].to_dataset().drop_attrs()
            )
        assert {k: str(v) for k, v in again.attrs.items()} == {
            k: str(v) for k, v in fit.attrs.items()
        }


def test_everything_goes_on_from_a_loaded_fit(model, best, tmp_path):
    again = gplvm.load(gplvm.save(best, tmp_path / "best.nc"))
    X_new = np.array([[0.1, -0.2], [0.0, 0.3]])
    xr.testing.assert_equal(gplvm.predict(again, X_new), gplvm.predict(best, X_new))
    further = gplvm.fit_map(model, start=again, progressbar=False)
    assert further.sample_stats["lp"] >= best.sample_stats["lp"] - 1e-6
    one, two = (
        gplvm.sample_theta(
            model, fit, draws=400, tune=300, chains=2, random_seed=5, progressbar=False
        )
        for fit in (best, again)
    )
    np.testing.assert_array_equal(one.posterior["sigma"], two.posterior["sigma"])
    assert gplvm.plot_latent(again, color="label").get_xlabel() == "latent 0"


def test_nothing_is_overwritten_unless_asked(best, tmp_path):
    path = tmp_path / "fit.nc"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="Pass overwrite=True or choose another name"):
        gplvm.save(best, path)
    assert path.read_text() == "mine"
    gplvm.save(best, path, overwrite=True)
    assert gplvm.load(path).attrs["method"] == "map"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fit.nc"]


def test_a_failed_write_leaves_the_old_file(best, tmp_path):
    path = gplvm.save(best, tmp_path / "fit.nc")
    before = path.read_bytes()
    unwritable = best.copy()
    unwritable.attrs = {**best.attrs, "odd": {"a": object()}}
    with pytest.raises((TypeError, ValueError)):
        gplvm.save(unwritable, path, overwrite=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["fit.nc"]


def test_places_that_cannot_be_written_are_refused(best, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not exist\. Make it first"):
        gplvm.save(best, tmp_path / "no" / "fit.nc")
    with pytest.raises(ValueError, match=r"saved as \.nc or \.zarr, got 'fit\.pkl'"):
        gplvm.save(best, tmp_path / "fit.pkl")
    with pytest.raises(TypeError, match="save needs a fit"):
        gplvm.save({"a": 1}, tmp_path / "fit.nc")


def test_a_flipped_byte_is_noticed(best, tmp_path):
    path = gplvm.save(best, tmp_path / "fit.nc")
    content = bytearray(path.read_bytes())
    place = content.find(best.posterior["X"].to_numpy().tobytes())
    assert place > 0
    content[place + 100] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as a fit; it is damaged"):
        gplvm.load(path)


def test_what_is_no_fit_is_refused(best, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        gplvm.load(tmp_path / "none.nc")
    with pytest.raises(ValueError, match=r"ending in \.nc or \.zarr"):
        gplvm.load(tmp_path / "fit.csv")
    garbage = tmp_path / "garbage.nc"
    garbage.write_bytes(b"not a file of numbers")
    with pytest.raises(ValueError, match="cannot be read as a fit"):
        gplvm.load(garbage)
    other = tmp_path / "other.nc"
    xr.DataTree(xr.Dataset({"a": ("x", [1.0])})).to_netcdf(other, engine="h5netcdf")
    with pytest.raises(ValueError, match="does not say which version"):
        gplvm.load(other)
    newer = best.copy()
    newer.attrs = {**best.attrs, "pm_gplvm_version": "99.0"}
    with pytest.raises(ValueError, match=r"written by pm_gplvm 99\.0.*Upgrade"):
        gplvm.load(gplvm.save(newer, tmp_path / "newer.nc"))
