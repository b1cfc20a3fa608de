"""Fits of several tables: with one they are those of that table, and the truth is found."""

import numpy as np
import pytest
from conftest import simulated

import pm_gplvm as gplvm

QUIET = {"progressbar": False, "random_seed": 1}
FITS = {
    "fit_map": lambda m, **options: gplvm.fit_map(m, **options, **QUIET),
    "fit_marginal": lambda m, **options: gplvm.fit_marginal(m, **options, **QUIET),
    "fit_variational": lambda m, **options: gplvm.fit_variational(
        m, n_inducing=8, **options, **QUIET
    ),
}


def two():
    Y = simulated(24, 16)
    return {"rna": Y[:, :9], "protein": Y[:, 9:] * 7.0}


@pytest.mark.parametrize("kernel", ["rbf", "rbf + linear"])
@pytest.mark.parametrize("verb", FITS)
def test_with_one_table_a_fit_is_that_of_the_table(verb, kernel):
    Y, options = simulated(24, 16), {"kernel": kernel, "ard": True}
    plain = FITS[verb](gplvm.build_model(Y, **options))
    named = FITS[verb](gplvm.build_model({"rna": Y}, **options))
    taken = gplvm.data.view(named, "rna")
    for name, values in plain["posterior"].data_vars.items():
        np.testing.assert_allclose(taken["posterior"][name], values, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(named["sample_stats"]["lp"], plain["sample_stats"]["lp"], rtol=1e-10)
    assert {**taken.attrs, "view": 0} == {**plain.attrs, "view": 0}


@pytest.mark.parametrize("verb", FITS)
def test_a_fit_goes_on_from_another(verb):
    model = gplvm.build_model(two(), ard=True)
    first = FITS[verb](model)
    again = FITS[verb](model, start=first)
    one, other = (f["optima"].to_dataset().isel(start=0) for f in (first, again))
    assert float(other["objective"]) >= float(one["objective"]) - 0.01
    assert int(other["evaluations"]) < int(one["evaluations"])


def test_rows_may_be_missing_from_either_table():
    tables = two()
    whole = {"rna": tables["rna"][:20], "protein": tables["protein"][4:]}
    for verb, fit in FITS.items():
        found = fit(gplvm.build_model(whole, ard=True, missing="mask"))
        assert found["posterior"]["X"].sizes["obs"] == 24, verb
        for name in whole:
            taken = gplvm.data.view(found, name)
            filled = gplvm.impute(taken)
            assert filled["mean"].notnull().all()
            assert (filled["sd"] > 0).sum() == 4 * filled.sizes["feature"]


def test_the_noise_at_its_floor_is_told_by_table():
    tables = two()
    model = gplvm.build_model(tables, resolution=0.3, priors={"sigma_protein": 0.3})
    with pytest.warns(RuntimeWarning, match="floor in the table 'rna', resolution = 0.3"):
        FITS["fit_map"](model)
