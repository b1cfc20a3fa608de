"""Calls with what cannot be meant: a line a case, and what the error says, or the number that is right.

Options have their own table (test_options.py), and so have arrays, labels and priors.
"""

import warnings

import arviz as az
import numpy as np
import pymc as pm
import pytest
import xarray as xr
from matplotlib import pyplot as plt

import pm_gplvm as gplvm
from pm_gplvm import diagnostics, plot
from pm_gplvm import model as models

QUIET = {"progressbar": False}
FEW = {"draws": 2, "tune": 2, "chains": 1, **QUIET}
ROWS = {"draws": 100, "num_samples": 2, "n_starts": 4, **QUIET}


def own_model(Y, *, X="X", tables=("Y",), discrete=False):
    with pm.Model() as model:
        K = gplvm.covariance("rbf", pm.Normal(X, shape=(len(Y), 2)), sigma=0.3)
        for name in tables:
            gplvm.GPColumns(name, K, observed=Y.T)
        if discrete:
            pm.Poisson("n", 3.0)
    return model


@pytest.fixture(scope="session")
def made(things):
    Y, model = things["Y"], things["model"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        full = gplvm.sample(model, draws=25, tune=4, chains=2, replicas=1, random_seed=1, **QUIET)
        short = gplvm.sample(model, draws=4, tune=4, chains=2, replicas=2, random_seed=1, **QUIET)
        fit = {
            name: gplvm.fit_map(gplvm.build_model(table, **options), relocate=False, **QUIET)
            for name, table, options in (
                ("ard", Y, {"ard": True}),
                ("linear", Y, {"kernel": "linear"}),
                ("summed", Y, {"kernel": "rbf + linear"}),
                ("narrow", Y[:, :3], {}),
                ("other", Y + np.arange(4.0), {}),
            )
        }
    own = {
        "no table": own_model(Y, tables=()),
        "two tables": own_model(Y, tables=("Y", "Y2")),
        "discrete": own_model(Y, discrete=True),
        "no X": own_model(Y, X="Z"),
    }
    return {
        **things,
        **fit,
        **own,
        "full": full,
        "short": short,
        "prior": gplvm.sample_prior(model, draws=5, random_seed=1),
        "ranks": xr.Dataset({"sigma": ("replicate", np.arange(100))}, attrs={"draws": 99}),
        "objective": models.compile_objective(model),
        "point": {"X": things["X"], "lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.3},
    }


def check(call, made, expected):
    """Make a call, which raises an error with this text or returns this number."""
    try:
        if isinstance(expected, str):
            with pytest.raises((TypeError, ValueError)) as caught:
                call(made)
            assert expected in str(caught.value)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert float(call(made)) == pytest.approx(expected)
    finally:
        plt.close("all")


# Fits edited by hand

READERS = {
    "add_rows": lambda t, fit: gplvm.add_rows(fit, t["rows"], steps=2, **QUIET),
    "align": lambda t, fit: gplvm.align(fit),
    "compare": lambda t, fit: gplvm.compare({"a": fit}, n_neighbors=3),
    "diagnose": lambda t, fit: gplvm.diagnose(fit),
    "embed": lambda t, fit: gplvm.embed(fit, t["rows"], **ROWS),
    "impute": lambda t, fit: gplvm.impute(fit, t["rows"], **ROWS),
    "log_predictive": lambda t, fit: gplvm.log_predictive(fit, t["rows"], **ROWS),
    "predict": lambda t, fit: gplvm.predict(fit, t["X"]),
    "reconstruct": lambda t, fit: gplvm.reconstruct(fit),
    "sample_predictive": lambda t, fit: gplvm.sample_predictive(fit, t["X"], random_seed=1),
    "resume": lambda t, fit: gplvm.resume(t["model"], fit, draws=2, **QUIET),
    "sample_theta": lambda t, fit: gplvm.sample_theta(t["model"], fit, **FEW),
    "fit_map(start)": lambda t, fit: gplvm.fit_map(t["model"], start=fit, max_iter=2, **QUIET),
    "from_fit": lambda t, fit: gplvm.GPLVM.from_fit(fit),
    "rebuild": lambda t, fit: models.rebuild(fit),
    "gradients": lambda t, fit: models.gradients(t["model"], fit),
    "plot.explore": lambda t, fit: plot.explore(fit, grid=4, num_samples=2),
    "plot.latent": lambda t, fit: plot.latent(fit, grid=3),
    "plot.magnification": lambda t, fit: plot.magnification(fit, grid=3),
    "plot.reconstruction": lambda t, fit: plot.reconstruction(fit, grid=2),
    "plot.compare": lambda t, fit: plot.compare({"a": fit}),
    "plot.relevance": lambda t, fit: plot.relevance(fit),
    "plot.prior(fit)": lambda t, fit: plot.prior(t["prior"], fit),
    "active_dimensions": lambda t, fit: diagnostics.active_dimensions(fit),
    "compute_log_likelihood": lambda t, fit: diagnostics.compute_log_likelihood(fit),
    "compute_log_prior": lambda t, fit: diagnostics.compute_log_prior(fit),
    "leave_one_out": lambda t, fit: diagnostics.leave_one_out(fit),
    "score_entries": lambda t, fit: diagnostics.score_entries(fit, t["Y"]),
    "log_evidence": lambda t, fit: diagnostics.log_evidence(fit),
    "magnification": lambda t, fit: diagnostics.magnification(fit, t["X"]),
    "neighbour_probabilities": lambda t, fit: diagnostics.neighbour_probabilities(fit, n_neighbors=3),
    "order": lambda t, fit: diagnostics.order(fit),
    "posterior_modes": lambda t, fit: diagnostics.posterior_modes(fit),
    "summary": lambda t, fit: gplvm.summary(fit),
    "summarise_theta": lambda t, fit: diagnostics.summarise_theta(fit, t["draws"]),
    "summarise_theta(draws)": lambda t, fit: diagnostics.summarise_theta(t["best"], fit),
}  # fmt: skip
READS_NO_TABLE = {
    *("align", "sample_theta", "fit_map(start)", "gradients", "log_evidence"),
    *("plot.latent", "plot.relevance", "active_dimensions", "neighbour_probabilities"),
    *("order", "posterior_modes", "summary"),
}
READS_NO_SCALE = {
    *READS_NO_TABLE,
    *("diagnose", "resume", "plot.prior(fit)", "summarise_theta", "summarise_theta(draws)"),
}
MADE_BY_SAMPLE = {"resume", "log_evidence", "posterior_modes", "diagnose"}


def put(name, value, group="posterior"):
    """Put a number into a variable: into its first entry, the others stay."""

    def edit(dataset):
        values = dataset[name].to_numpy().copy()
        values.flat[0] = value
        return dataset.assign({name: dataset[name].copy(data=values)})

    return within(edit, group)


def drop(name, group="posterior"):
    return within(lambda dataset: dataset.drop_vars(name), group)


def within(edit, group="posterior"):
    def damage(fit):
        fit = fit.copy()
        fit[group] = xr.DataTree(edit(fit[group].to_dataset()))
        return fit

    return damage


def without(*groups):
    return lambda fit: fit.drop_nodes(list(groups))


def with_attr(name, value):
    def damage(fit):
        fit = fit.copy()
        fit.attrs = {n: v for n, v in {**fit.attrs, name: value}.items() if v is not None}
        return fit

    return damage


def foreign(fit):
    return az.from_dict({"posterior": {"mu": np.zeros((2, 50)), "tau": np.ones((2, 50, 3))}})


VALUES = {
    "X NaN": (put("X", np.nan), "finite values of X, got nan"),
    "X inf": (put("X", np.inf), "finite values of X, got inf"),
    "X text": (within(lambda d: d.assign(X=d["X"].astype(str))), "a fit with numbers in X, got <U"),
    "X of fewer rows": (within(lambda d: d.isel(obs=slice(5))), "each of the 12 rows of its table, got X of 5"),
    "X removed": (drop("X"), "needs the variable 'X'"),
    "X flat": (within(lambda d: d.assign(X=d["X"].isel(latent=0, drop=True))), "X of the dims chain, draw, obs and latent"),
    "sigma NaN": (put("sigma", np.nan), "positive and finite values of sigma, got nan"),
    "sigma -1": (put("sigma", -1.0), "positive and finite values of sigma, got -1.0"),
    "lengthscale 0": (put("lengthscale", 0.0), "positive and finite values of lengthscale, got 0.0"),
    "lengthscale -1": (put("lengthscale", -1.0), "positive and finite values of lengthscale, got -1.0"),
    "lengthscale removed": (drop("lengthscale"), "needs the variable 'lengthscale'"),
    "amplitude inf": (put("amplitude", np.inf), "finite values of amplitude, got inf"),
    "amplitude removed": (drop("amplitude"), "needs the variable 'amplitude'"),
    "Y_scale 0": (put("Y_scale", 0.0, "constant_data"), "positive and finite values of Y_scale, got 0.0"),
    "Y_mean NaN": (put("Y_mean", np.nan, "constant_data"), "finite values of Y_mean, got nan"),
    "no posterior": (without("posterior"), "the group 'posterior', got the groups: "),
    "no draws": (within(lambda d: d.isel(draw=slice(0))), "a fit with draws"),
    "one draw taken out": (within(lambda d: d.isel(draw=0)), "isel(draw=[0])"),
    "no chain": (within(lambda d: d.isel(chain=0, drop=True)), "dims chain and draw first"),
    "priors no JSON": (with_attr("priors", "{nope"), "in attrs['priors'], got '{nope'"),
    "priors a list": (with_attr("priors", "[1]"), "the JSON of a mapping in attrs['priors'], got '[1]'"),
    "another package": (foreign, "needs the variable '"),
}  # fmt: skip
TABLES = {
    "no table": (without("observed_data"), "a fit that holds its table, 'Y' in the group observed_data"),
    "no such table": (with_attr("observed", "Z"), "a fit that holds its table, 'Z' in the group observed_data"),
    "no attrs": (lambda fit: xr.DataTree(children=dict(fit.children)), "a fit"),
}  # fmt: skip
SCALES = {
    "no scale": (drop("Y_scale", "constant_data"), "needs the variable 'Y_scale'"),
    "nothing held": (without("constant_data"), "needs the variable 'Y_"),
}
EDITED = [
    pytest.param(reader, damage, text, id=f"{reader}: {name}")
    for damages, spared in ((VALUES, ()), (TABLES, READS_NO_TABLE), (SCALES, READS_NO_SCALE))
    for name, (damage, text) in damages.items()
    for reader in READERS
    if reader not in spared and (reader, name) != ("diagnose", "no attrs")
]


@pytest.mark.parametrize(("reader", "damage", "text"), EDITED)
def test_edited_fits_are_refused(made, reader, damage, text):
    fit = damage(made["full" if reader in MADE_BY_SAMPLE else "best"])
    check(lambda made: READERS[reader](made, fit), made, text)


NO_FITS = {
    "None": lambda t: None,
    "path": lambda t: "fit.nc",
    "dataset": lambda t: t["best"]["posterior"].to_dataset(),
    "fits": lambda t: {"a": t["best"]},
    "array": lambda t: t["X"],
    "model": lambda t: t["model"],
}
# These take something else in place of a fit, and say so in their own words.
TAKES_MORE = {"sample_theta", "fit_map(start)", "gradients", "resume", "plot.prior(fit)"}


@pytest.mark.parametrize("kind", NO_FITS)
@pytest.mark.parametrize("reader", [name for name in READERS if name not in TAKES_MORE])
def test_what_is_no_fit_is_refused(made, reader, kind):
    given = NO_FITS[kind](made)
    advice = {"path": "Read it first", "fits": "Pass one of them, such as fits['a']"}.get(kind, "")
    text = f"needs a fit (a DataTree, as fit_marginal and sample_theta return it), got {type(given).__name__}.{' ' * bool(advice)}{advice}"
    check(lambda made: READERS[reader](made, given), made, text)


# Calls, one a line

Q, D, M, P = QUIET, diagnostics, models, plot


def edited(key, damage, call):
    """Make a call with an edited fit."""
    return lambda t: call(t, damage(t[key]))


def resumed(damage):
    return edited("short", damage, lambda t, fit: gplvm.resume(t["model"], fit, draws=2, **Q))


def sampler(**changes):
    """Put other variables or attrs into the group of the sampler's state; None removes one."""

    def edit(dataset):
        for name, value in changes.items():
            if name in dataset.attrs:
                dataset.attrs = {
                    n: v for n, v in {**dataset.attrs, name: value}.items() if v is not None
                }
            else:
                dataset = (
                    dataset.drop_vars(name)
                    if value is None
                    else dataset.assign({name: value(dataset[name])})
                )
        return dataset

    return resumed(within(edit, "sampler"))


def ranks(*values, **attrs):
    return xr.Dataset({"sigma": ("replicate", list(values))}, attrs={"draws": 99, **attrs})


def at(t, **changes):
    """Change values of a point; None removes one."""
    return {n: v for n, v in {**t["point"], **changes}.items() if v is not None}


def columns(t, cov=None, observed=None, **parameters):
    with pm.Model() as model:
        gplvm.GPColumns("Y", np.eye(12) if cov is None else cov, observed=t["Y"].T if observed is None else observed, **parameters)  # fmt: skip
    return model.compile_logp()({})


def K(t, kernel="rbf + linear", **parameters):
    return gplvm.covariance(kernel, parameters.pop("X", t["X"]), **parameters).eval()[0, 1]


def folds(t, build=None, **options):
    build = gplvm.build_model if build is None else build
    return D.cross_validate(t["Y"], build, n_folds=2, draws=100, random_seed=1, **options, **Q)


# fmt: off
ABOUT_FITS = [
    (edited("best", with_attr("method", "astrology"), lambda t, f: gplvm.predict(f, t["X"])["mean"][0, 0] - gplvm.predict(t["best"], t["X"])["mean"][0, 0]), 0.0),
    (edited("best", with_attr("method", 3), lambda t, f: gplvm.compare({"a": f}, n_neighbors=3).loc["a", "neighbours"]), 1.0),
    (edited("best", with_attr("method", None), lambda t, f: D.neighbour_probabilities(f, n_neighbors=3).sum() / 12), 3.0),
    (edited("best", with_attr("kernel", "rbg"), lambda t, f: gplvm.predict(f, t["X"])), "knows the kernels rbf"),
    (edited("best", with_attr("kernel", None), lambda t, f: gplvm.predict(f, t["X"])), "got a fit with 'custom'"),
    (edited("best", within(lambda d: d.rename(latent="place")), lambda t, f: len(D.active_dimensions(f))), 2.0),
    (edited("best", put("sigma", 0.0), lambda t, f: gplvm.predict(f, t["X"])["sd"].notnull().all()), 1.0),
    (edited("best", without("optima"), lambda t, f: P.optima(f)), "must hold where its starts ended"),
    (lambda t: P.optima(t["draws"]), "must hold where its starts ended"),
    (lambda t: P.optima(None), "plot.optima needs a fit"),
    (lambda t: gplvm.save(None, "fit.nc"), "save needs a fit"),
    (lambda t: gplvm.save(t["prior"], "fit.nc"), "save needs a fit with the group 'posterior'"),
    (lambda t: gplvm.diagnose(t["prior"]), "got the groups: prior, prior_predictive"),
    (lambda t: gplvm.predict(t["prior"], t["X"]), "got the groups: prior, prior_predictive"),
    (lambda t: P.prior(t["prior"], t["prior"]), "plot.prior needs a fit with the group 'posterior'"),
    (lambda t: P.prior(t["best"], t["prior"]), "prior must hold the groups of sample_prior"),
    (lambda t: P.prior(t["best"]), "prior must hold the groups of sample_prior"),
    (lambda t: P.prior(t["prior"], t["narrow"]), "needs fits of the same table, got in 'prior' and 'fit' 12 rows and 4 features, and 12 and 3"),
    (lambda t: P.prior(t["prior"], t["other"]), "'fit' 36 entries that differ"),
    (lambda t: P.prior(t["prior"], "fit.nc"), "Read it first: gplvm.load(path)"),
    (lambda t: P.prior(None), "prior must be a DataTree of sample_prior, got NoneType"),
    (edited("prior", put("X", np.nan, "prior"), lambda t, f: P.prior(f)), "finite values of X, got nan"),
    (edited("prior", put("lengthscale", 0.0, "prior"), lambda t, f: P.prior(f)), "values of lengthscale, got 0.0"),
    (edited("prior", drop("X", "prior"), lambda t, f: P.prior(f)), "needs the variable 'X'"),
    (edited("prior", drop("Y", "prior_predictive"), lambda t, f: P.prior(f)), "must hold drawn tables 'Y' in prior_predictive"),
    (edited("prior", with_attr("observed", None), lambda t, f: P.prior(f)), "whose attrs name the table"),
    (lambda t: gplvm.sample_theta(t["model"], t["prior"], **FEW), "sample_theta needs a fit with the group 'posterior'"),
    (lambda t: gplvm.sample_theta(t["model"], t["other"], **FEW), "X must be a fit of the model's table"),
    (lambda t: gplvm.sample_theta(t["model"], {"a": t["best"]}, **FEW), "X must be an array of numbers, got a dict"),
    (lambda t: gplvm.sample_theta(t["model"], None, **FEW), "X must be an array of numbers, got None"),
    (lambda t: gplvm.fit_map(t["model"], start=t["prior"], **Q), "start needs a fit with the group 'posterior'"),
    (lambda t: gplvm.fit_map(t["model"], start={"a": t["best"]}, **Q), "start must name variables of the model"),
    (lambda t: gplvm.fit_map(t["model"], start=None, **Q), "start must be one of pca, isomap, random"),
    (lambda t: gplvm.resume(t["model"], t["best"], **Q), "resume needs a fit made by sample"),
    (lambda t: gplvm.resume(t["model"], None, **Q), "resume needs a fit"),
    (lambda t: gplvm.resume(None, t["short"], **Q), "model must be a pm.Model, got NoneType"),
    (resumed(without("tempering")), "without tempering/log_likelihood, tempering/swap_rate"),
    (resumed(without("sample_stats")), "without sample_stats/lp"),
    (resumed(within(lambda d: d.isel(draw=slice(2)), "sample_stats")), "4 draws in tempering and sample_stats"),
    (resumed(with_attr("tune", "x")), "in attrs['tune'], got 'x'"),
    (resumed(with_attr("tune", None)), "in attrs['tune'], got none"),
    (resumed(with_attr("tune", -1)), "tune in the attrs of fit must be a whole number of at least 0"),
    (resumed(with_attr("thin", 0)), "thin in the attrs of fit must be a whole number of at least 1"),
    (resumed(with_attr("thin", "NaN")), "thin in the attrs of fit must be a whole number"),
    (resumed(with_attr("random_seed", None)), "in attrs['random_seed'], got none"),
    (sampler(state=None), "without sampler/state"),
    (sampler(step_size=None), "without sampler/step_size"),
    (sampler(beta=None), "without sampler/beta"),
    (sampler(state=lambda v: v * np.nan), "sampler/state of fit must be finite"),
    (sampler(beta=lambda v: v * np.nan), "sampler/beta of fit must be finite"),
    (sampler(beta=lambda v: v + 1.0), "with temperatures from 0 to 1"),
    (sampler(step_size=lambda v: -v), "with step sizes above 0"),
    (sampler(state=lambda v: v[:1].rename(chain="one")), "with a state of each chain at each temperature"),
    (sampler(state=lambda v: v.astype(str)), "sampler/state of fit must hold numbers"),
    (sampler(generator=None), "without the state of its generator"),
    (sampler(generator="x"), "without the state of its generator"),
    (sampler(generator="[1]"), "without the state of its generator"),
    (sampler(generator='{"a": 1}'), "without the state of its generator"),
    (sampler(n_proposals=None), "n_proposals in the group 'sampler' of fit must be a whole number"),
    (sampler(n_proposals=0), "n_proposals in the group 'sampler' of fit must be a whole number"),
    (lambda t: M.rebuild(t["best"], priors="flat"), "priors must be a mapping from parameters to priors"),
    (lambda t: gplvm.add_rows(t["full"], t["rows"], **Q), "needs a fit of one draw"),
    (lambda t: D.log_evidence(t["short"]), "needs temperatures down to the prior"),
    (lambda t: gplvm.align(t["best"], to=t["prior"]), "align needs a fit with the group 'posterior'"),
    (lambda t: gplvm.align(t["best"], to="mean"), "to must be an array of numbers, got a str"),
]

ABOUT_DIAGNOSTICS = [
    (lambda t: D.sbc_test(t["ranks"]).loc["sigma", "chi2_p"], 1.0),
    (lambda t: D.sbc_test(None), "ranks must be a Dataset of sbc, got NoneType"),
    (lambda t: D.sbc_test([1, 2]), "ranks must be a Dataset of sbc, got list"),
    (lambda t: D.sbc_test(np.arange(5)), "ranks must be a Dataset of sbc, got ndarray"),
    (lambda t: D.sbc_test({"sigma": [1]}), "ranks must be a Dataset of sbc, got dict"),
    (lambda t: D.sbc_test("ranks.nc"), "ranks must be a Dataset of sbc, got str"),
    (lambda t: D.sbc_test(t["best"]), "ranks must be a Dataset of sbc, got DataTree"),
    (lambda t: D.sbc_test(t["ranks"].drop_attrs()), "ranks.attrs['draws'] must be a whole number of at least 1, got None"),
    (lambda t: D.sbc_test(ranks(1, draws="99")), "ranks.attrs['draws'] must be a whole number of at least 1, got '99'"),
    (lambda t: D.sbc_test(ranks(1, draws=0)), "ranks.attrs['draws'] must be"),
    (lambda t: D.sbc_test(ranks(1, draws=np.nan)), "ranks.attrs['draws'] must be"),
    (lambda t: D.sbc_test(ranks(1, draws=9.5)), "ranks.attrs['draws'] must be"),
    (lambda t: D.sbc_test(ranks(1, draws=True)), "ranks.attrs['draws'] must be"),
    (lambda t: D.sbc_test(ranks(1, np.nan)), "ranks['sigma'] must be finite"),
    (lambda t: D.sbc_test(ranks(1, -1)), "ranks['sigma'] must be whole numbers from 0 to 99"),
    (lambda t: D.sbc_test(ranks(1, 100)), "ranks['sigma'] must be whole numbers from 0 to 99"),
    (lambda t: D.sbc_test(ranks(1, 3.5)), "ranks['sigma'] must be whole numbers from 0 to 99"),
    (lambda t: D.sbc_test(ranks("a", "b")), "ranks['sigma'] must hold numbers"),
    (lambda t: D.sbc_test(ranks()), "ranks['sigma'] must have one rank a table, got shape (0,)"),
    (lambda t: D.sbc_test(xr.Dataset(attrs={"draws": 9})), "ranks must hold the ranks of a quantity or more, got none"),
    (lambda t: D.sbc_test(t["ranks"].expand_dims(chain=2)), "ranks['sigma'] must have one rank a table, got shape (2, 100)"),
    (lambda t: D.sbc_test(t["ranks"], n_bins=0), "n_bins must be a whole number of at least 1, got 0"),
    (lambda t: D.sbc_test(t["ranks"], n_bins=1), "n_bins must be a whole number of at least 2, got 1"),
    (lambda t: D.summarise_theta(t["best"], t["draws"]).loc["sigma", "estimate"] - t["best"].posterior["sigma"][0, 0], 0.0),
    (lambda t: D.summarise_theta(t["draws"], t["best"]), "best must be a fit of one draw, got 20"),
    (lambda t: D.summarise_theta(t["ard"], t["draws"]), "got lengthscale of another shape or none"),
    (lambda t: D.summarise_theta(t["best"], t["ard"]), "got lengthscale of another shape or none"),
    (lambda t: D.summarise_theta(t["linear"], t["draws"]), "draws must be of the model of best, got lengthscale"),
    (lambda t: D.summarise_theta(t["best"], t["summed"]), "draws must be of the model of best, got weight"),
    (lambda t: D.summarise_theta(t["narrow"], t["draws"]), "needs fits of the same table"),
    (lambda t: D.summarise_theta(t["other"], t["draws"]), "36 entries that differ"),
    (lambda t: D.summarise_theta(t["best"], 3), "summarise_theta needs a fit"),
    (lambda t: gplvm.compare([t["best"]]), "compare needs a mapping such as {'MAP': best"),
    (lambda t: gplvm.compare(t["best"]), "compare needs a mapping such as {'MAP': best"),
    (lambda t: gplvm.compare(None), "compare needs a mapping such as {'MAP': best"),
    (lambda t: gplvm.compare({}), "compare needs at least one fit, got an empty mapping"),
    (lambda t: gplvm.compare({"a": None}), "compare needs a fit"),
    (lambda t: gplvm.compare({"a": t["prior"]}), "compare needs a fit with the group 'posterior'"),
    (lambda t: gplvm.compare({"a": t["best"], "b": t["narrow"]}), "12 rows and 4 features, and 12 and 3"),
    (lambda t: gplvm.compare({"a": t["best"], "b": t["other"]}), "36 entries that differ"),
    (lambda t: gplvm.compare({"a": t["best"]}, n_neighbors=12), "n_neighbors must be below the number of rows, 12, got 12"),
    (lambda t: gplvm.compare({"a": t["best"]}, n_neighbors=3, reference="b"), "reference must name a fit (a), got 'b'"),
    (lambda t: gplvm.compare({"a": t["best"]}, n_neighbors=3, reference=3), "reference must"),
    (lambda t: gplvm.compare({"a": t["best"]}, n_neighbors=3, reference=t["prior"]), "reference needs a fit with the group 'posterior'"),
    (lambda t: gplvm.compare({"a": t["best"]}, n_neighbors=3, labels="nope"), "no coordinate 'nope'"),
    (lambda t: gplvm.compare({"a": t["best"]}, n_neighbors=3, labels=[1, 2]), "labels must"),
    (lambda t: gplvm.compare({"a": t["best"]}, n_neighbors=3, kfold=[1]), "kfold must be a mapping from names of fits"),
    (lambda t: gplvm.compare({"a": t["best"]}, n_neighbors=3, kfold={"a": None}), "kfold must hold results of cross_validate, got NoneType"),
    (lambda t: gplvm.compare({"a": t["best"]}, n_neighbors=3, kfold={"b": t["ranks"]}), "kfold must name fits (a), got b"),
    (lambda t: gplvm.compare({"a": t["best"]}, n_neighbors=3, kfold={"a": t["ranks"]}), "kfold must hold results of cross_validate, got Dataset"),
    *[(lambda t, v=v: gplvm.data.view(v, "rna"), "view needs a fit") for v in (None, "text", 3, {}, [1])],
    (lambda t: gplvm.data.view(t["best"], "rna"), "view needs a fit of several tables"),
    (lambda t: P.compare([t["best"]]), "plot.compare needs a mapping"),
    (lambda t: P.compare({}), "plot.compare needs at least one fit"),
    (lambda t: P.compare({"a": t["best"], "b": t["other"]}), "36 entries that differ"),
    (lambda t: D.neighbour_probabilities(t["best"], n_neighbors=12), "n_neighbors must be below the number of rows, 12, got 12"),
    (lambda t: D.posterior_modes(t["draws"]), "needs 40 draws or more to sort, got 20"),
    (lambda t: D.posterior_modes(t["full"], n_pairs=10**9).members.size, 50.0),
    (lambda t: D.posterior_modes(t["full"], n_pairs=0), "n_pairs must be a whole number of at least 1, got 0"),
    *[(lambda t, v=v: D.posterior_modes(t["full"], min_weight=v), "min_weight must be a finite number above 0 and below 0.5, got") for v in (0, 0.5, -1, np.nan, "a", None, True, [0.1])],
    *[(lambda t, v=v: D.active_dimensions(t["best"], threshold=v), "threshold must be a finite number above 0 and below 1, got") for v in (0, 1, -1, np.nan, "a", None, True)],
    *[(lambda t, v=v: D.order(t["best"], dim=v), "dim must be a whole number from 0 to 1, got") for v in (-1, 2, 0.5, "0", None, True, [0])],
    *[(lambda t, v=v: P.optima(t["best"], same=v), "same must be a finite number above 0 and below 1, got") for v in (0, 1, -1, np.nan, "a", None, True)],
]

ABOUT_MODELS = [
    *[(lambda t, v=v: gplvm.build_model(v), text) for v, text in (
        ({}, "at least one table where it is a mapping"),
        ({"a b": np.eye(4)}, "a name of letters, digits and '_', not beginning with a digit, got 'a b'"),
        ({"a": None}, "In the table 'a': Y must"),
        ({"a": np.eye(4), "b": np.ones((4, 2))}, "In the table 'b': Y has 4 equal rows"),
        ({"a": np.eye(4), "b": np.eye(5)}, "got 4 in 'a' and 5 in 'b', and no labels"),
    )],
    *[(lambda t, f=f, key=key: f(t, t[key] if key in t else {"none": None, "text": "rbf"}[key]), text)
      for f in (
          lambda t, m: gplvm.fit_map(m, **Q),
          lambda t, m: gplvm.fit_marginal(m, **Q),
          lambda t, m: gplvm.fit_laplace(m, **Q),
          lambda t, m: gplvm.fit_linear(m),
          lambda t, m: gplvm.fit_sparse(m, **Q),
          lambda t, m: gplvm.fit_variational(m, **Q),
          lambda t, m: gplvm.fit_stochastic(m, **Q),
          lambda t, m: gplvm.sample(m, **FEW),
          lambda t, m: gplvm.sample_theta(m, t["X"], **FEW),
          lambda t, m: gplvm.sample_prior(m),
          lambda t, m: D.sbc(m, n_replicates=1, **Q),
          lambda t, m: M.build_sparse(m),
          lambda t, m: M.build_variational(m),
          lambda t, m: M.compile_objective(m),
          lambda t, m: M.gradients(m, t["point"]),
      )
      for key, text in (
          ("none", "model must be a pm.Model, got NoneType"),
          ("text", "model must be a pm.Model, got str"),
          ("best", "model must be a pm.Model, got DataTree"),
          ("Y", "model must be a pm.Model, got ndarray"),
          ("no table", "model must have one observed GPColumns, got 0"),
          ("two tables", "model must have one observed GPColumns, got 2"),
          ("no X", "model must have latent positions called 'X', got the variables Z"),
      )],
    *[(lambda t, f=f: f(t, t["discrete"]), "model must have continuous free variables, got n (int64)")
      for f in (
          lambda t, m: gplvm.fit_map(m, **Q),
          lambda t, m: gplvm.fit_laplace(m, **Q),
          lambda t, m: gplvm.sample_theta(m, t["X"], **FEW),
          lambda t, m: M.compile_objective(m),
      )],
    (lambda t: gplvm.sample_prior(t["discrete"], draws=3)["prior"].sizes["draw"], 3.0),
    (lambda t: D.compute_log_prior(t["best"], model="m"), "model must be a pm.Model or None, got str"),
    (lambda t: D.compute_log_prior(t["best"], model=pm.Model()), "model must have a free variable, got none"),
    (lambda t: D.compute_log_prior(t["best"], model=t["no X"]), "got one with Z, of which the fit has no draws"),
    (lambda t: folds(t, lambda table: None), "build must return the model of the table it is given, got NoneType"),
    (lambda t: folds(t, lambda table: t["best"]), "or a fit of it, got a fit of another table"),
    (lambda t: folds(t, lambda table: t["model"]), "build must return the model of the table it is given, got one of another table"),
    (lambda t: folds(t, lambda table: t["no table"]), "model must have one observed GPColumns, got 0"),
    (lambda t: folds(t, lambda: None), "build must be a function of (table), got another"),
    (lambda t: folds(t, lambda a, b: None), "build must be a function of (table), got another: missing a required argument: 'b'"),
    (lambda t: folds(t, "rbf"), "build must be a function of (table), got another: 'rbf' is not a callable object"),
    (lambda t: folds(t, t["model"]), "build must be a function of (table), got another"),
    (lambda t: folds(t, fit="fit_map"), "fit must be a function of (model), got another: 'fit_map' is not a callable object"),
    (lambda t: folds(t, fit=3), "fit must be a function of (model), got another"),
    (lambda t: folds(t, fit=lambda: None), "fit must be a function of (model), got another"),
    (lambda t: folds(t, fit=lambda model: None), "cross_validate needs a fit"),
    (lambda t: folds(t, fit=lambda model: model), "cross_validate needs a fit"),
    (lambda t: folds(t, fit=lambda model: t["prior"]), "cross_validate needs a fit with the group 'posterior'"),
    (lambda t: folds(t, fit=lambda model: t["best"]), "fit must return a fit of the model it is given, got one of another table"),
]

ABOUT_PARTS = [
    (lambda t: columns(t, observed=np.zeros((4, 12))), -24.0 * np.log(2.0 * np.pi)),
    (lambda t: columns(t, np.ones(12)), "cov must be one N × N matrix shared by all columns, got 1 dimensions"),
    (lambda t: columns(t, np.ones((12, 3))), "cov must be one N × N matrix shared by all columns, got shape (12, 3)"),
    (lambda t: columns(t, np.eye(3)), "cov must have a row for each of the 12 rows of observed"),
    (lambda t: columns(t, np.full((12, 12), np.nan)), "cov must be finite"),
    (lambda t: columns(t, "rbf"), "cov must be an array of numbers, got a str"),
    (lambda t: columns(t, {}), "cov must be an array of numbers, got a dict"),
    (lambda t: columns(t, observed=t["Y"]), "Is observed transposed? Pass observed=Y.T"),
    (lambda t: columns(t, observed=t["Y"].T[None]), "observed must be one table (feature, obs), got 3 dimensions"),
    (lambda t: columns(t, observed=t["Y"].T.astype(str)), "observed must hold numbers"),
    (lambda t: columns(t, observed=np.where(t["Y"].T > 0.5, np.nan, t["Y"].T)), "Put any number there, and pass seen"),
    (lambda t: columns(t, mu=np.zeros(7)), "mu must be one number, or one for each of the 4 columns, got shape (7,)"),
    (lambda t: columns(t, mu="a"), "mu must be an array of numbers, got a str"),
    (lambda t: columns(t, mu=np.nan), "mu must be finite"),
    (lambda t: columns(t, mu=np.zeros((4, 1))), "mu must have 0 or 1 dimensions, got 2"),
    (lambda t: columns(t, scale=0.0), "scale must be positive, got 0"),
    (lambda t: columns(t, scale=-1.0), "scale must be positive, got -1"),
    (lambda t: columns(t, scale=np.ones(7)), "scale must be one number, or one for each of the 4 columns"),
    (lambda t: columns(t, scale=True), "scale must be a number or a variable, got True"),
    (lambda t: columns(t, seen=np.ones((3, 3), bool)), "seen must have the shape of observed, (4, 12), got (3, 3)"),
    (lambda t: columns(t, seen=np.ones(12, bool)), "seen must have two dimensions"),
    (lambda t: columns(t, seen="all"), "seen must be an array of numbers, got a str"),
    (lambda t: columns(t, seen=np.full((4, 12), 2)), "seen must hold True and False, got other numbers"),
    (lambda t: columns(t, amplitude=1.0), "amplitude needs a sigma beside it"),
    (lambda t: columns(t, sigma=np.ones(7)), "sigma must be one number, or one for each of the 4 columns"),
    (lambda t: columns(t, sigma=-1.0), "sigma must be positive, got -1"),
    (lambda t: columns(t, sigma="a"), "sigma must be an array of numbers, got a str"),
    (lambda t: columns(t, sigma=1.0, amplitude=np.ones(7)), "amplitude must be one number, or one for each of the 4 columns"),
    (lambda t: columns(t, sigma=1.0, amplitude=-1.0), "amplitude must be at least 0, got -1"),
    (lambda t: K(t, X=np.zeros((2, 1)), sigma=1.0, bias=2.0), 5.0),
    (lambda t: K(t, X="a"), "X must be an array of numbers, got a str"),
    (lambda t: K(t, X=None), "X must be an array of numbers, got None"),
    (lambda t: K(t, X=t["X"][0]), "X must have 2 dimensions, got 1"),
    (lambda t: K(t, X=t["X"][None]), "X must have 2 dimensions, got 3"),
    (lambda t: K(t, X=t["X"] * np.nan), "X must be finite"),
    (lambda t: K(t, X=[[1, 2], [3]]), "X must be an array of numbers, got a list (rows of unequal length)"),
    (lambda t: K(t, X=t["X"].astype(str)), "X must hold numbers, got text"),
    (lambda t: K(t, X=t["best"]), "X must be an array of numbers, got a DataTree"),
    (lambda t: K(t, X={}), "X must be an array of numbers, got a dict"),
    (lambda t: K(t, lengthscale=0.0), "lengthscale must be positive, got 0"),
    (lambda t: K(t, lengthscale=[1.0, 2.0, 3.0]), "one for each of the 2 latent dimensions, got shape (3,)"),
    (lambda t: K(t, lengthscale=np.ones((2, 2))), "lengthscale must have 0 or 1 dimensions, got 2"),
    (lambda t: K(t, lengthscale=[1.0, -1.0]), "lengthscale must be positive, got -1"),
    *[(lambda t, n=n: K(t, **{n: -1.0}), f"{n} must be ") for n in ("lengthscale", "amplitude", "sigma", "weight", "bias")],
    *[(lambda t, n=n: K(t, **{n: "a"}), f"{n} must be an array of numbers, got a str") for n in ("lengthscale", "amplitude", "sigma", "weight", "bias")],
    *[(lambda t, n=n: K(t, **{n: None}), f"{n} must be an array of numbers, got None") for n in ("lengthscale", "amplitude", "sigma", "weight", "bias")],
    *[(lambda t, n=n: K(t, **{n: np.nan}), f"{n} must be finite") for n in ("lengthscale", "amplitude", "sigma", "weight", "bias")],
    *[(lambda t, n=n: K(t, **{n: np.inf}), f"{n} must be finite") for n in ("lengthscale", "amplitude", "sigma", "weight", "bias")],
    *[(lambda t, n=n: K(t, **{n: True}), f"{n} must be a number or a variable, got True") for n in ("lengthscale", "amplitude", "sigma", "weight", "bias")],
    *[(lambda t, n=n: K(t, **{n: [1.0, 2.0, 3.0]}), f"{n} must have 0 dimensions, got 1") for n in ("amplitude", "sigma", "weight", "bias")],
    *[(lambda t, k=k: K(t, k), "kernel must be a name such as 'rbf'") for k in (None, 3, b"rbf", ["rbf"], pm.gp.cov.ExpQuad)],
    *[(lambda t, k=k: K(t, k), "kernel must") for k in ("", "rbg", "rbf +", "linear + linear")],
    *[(lambda t, k=k: gplvm.build_model(t["Y"], kernel=k), "kernel must") for k in (None, 3, b"rbf", ["rbf"], "", "rbg", "rbf +")],
    *[(lambda t, k=k: gplvm.GPLVM(kernel=k).fit(t["Y"]), "kernel must") for k in (None, 3, "rbg")],
    *[(lambda t, o=o: gplvm.GPLVM(inference=o).fit(t["Y"]), "inference must be one of auto, marginal, map,") for o in (None, 3, "", "nuts", ["map"], True)],
    *[(lambda t, o=o: gplvm.GPLVM(n_inducing=o).fit(t["Y"]), "n_inducing must be a whole number of at least 2, got") for o in (0, 1, -3, 2.5, "5", True, [5], np.nan)],
    *[(lambda t, o=o: gplvm.GPLVM(max_iter=o).fit(t["Y"]), "max_iter must be a whole number of at least 1, got") for o in (0, -3, 2.5, "5", True, np.nan)],
    *[(lambda t, o=o: gplvm.GPLVM(inference=o, kernel="linear", n_restarts=2).fit(t["Y"]), f"n_restarts must be 0 with inference='{o}'") for o in ("stochastic", "linear")],
    *[(lambda t, s=s: gplvm.GPLVM(inference="linear", kernel="linear", start=s).fit(t["Y"]), "start must be left at 'pca'") for s in ("isomap", np.zeros((12, 2)))],
    (lambda t: gplvm.GPLVM(inference="linear").fit(t["Y"]), "fit_linear needs kernel='linear'"),
    *[(lambda t, o=o: gplvm.GPLVM(inference=o, missing="mask").fit(np.where(np.eye(12, 4) > 0, np.nan, t["Y"])), "complete table") for o in ("stochastic",)],
    *[(lambda t, o=o: gplvm.GPLVM(likelihood=o).fit(t["Y"]), "likelihood must be one of gaussian, student_t,") for o in (None, 3, "", "posson", ["poisson"], True)],
    *[(lambda t, o=o: gplvm.GPLVM(likelihood=o).fit(t["Y"]), "likelihood must be an object made of poisson, got the function") for o in (gplvm.likelihoods.poisson,)],
    *[(lambda t, o=o: gplvm.GPLVM(likelihood=o).fit(t["Y"]), text) for o, text in (({}, "must name every column of Y"), ({9: "poisson"}, "must name columns of Y, got 9"), ({0: "poisson"}, "must name every column of Y"), ({0: 3}, "likelihood of column 0 must be one of"))],
    *[(lambda t, o=o: gplvm.GPLVM(offset=o).fit(t["Y"]), "offset must be 'size' or None, got") for o in (3, "", "sum", True, np.zeros(12))],
    *[(lambda t, o=o: gplvm.GPLVM(max_iter=2).fit(t["Y"], offset=o), "offset must be ") for o in ("sum", np.full(12, np.nan))],
    *[(lambda t, o=o: gplvm.GPLVM(max_iter=2).fit(t["Y"], offset=o), "offset must have the shape") for o in (np.zeros(11), np.zeros((3, 3)), np.zeros((2, 12, 4)))],
    *[(lambda t, o=o: gplvm.GPLVM(inference="svi", start=o).fit(t["Y"]), "start must ") for o in ("isomap", "umap", np.zeros((3, 2)))],
    (lambda t: gplvm.GPLVM(likelihood="poisson").fit(t["Y"]), "must hold counts (whole numbers of at least 0)"),
    (lambda t: gplvm.GPLVM(likelihood="bernoulli").fit(t["Y"]), "under the likelihood 'bernoulli'"),
    (lambda t: gplvm.summary(with_attr("warnings", "3")(t["best"])), "the JSON of a list in attrs['warnings'], got '3'"),
    (lambda t: gplvm.summary(with_attr("warnings", "{nope")(t["best"])), "in attrs['warnings'], got '{nope'"),
    *[(lambda t, f=f, c=c: f(t, at(t, **c)), text)
      for f in (lambda t, point: t["objective"](point), lambda t, point: M.gradients(t["model"], point))
      for c, text in (
          ({"sigma": None}, "point must give a value to"),
          ({"z": 1.0}, "point must give a value to"),
          ({"X": np.zeros((3, 2))}, "point['X'] must have shape (12, 2), got (3, 2)"),
          ({"sigma": [0.3]}, "point['sigma'] must have shape (), got (1,)"),
          ({"sigma": "a"}, "point['sigma'] must be an array of numbers, got a str"),
          ({"sigma": 1j}, "point['sigma'] must hold numbers, got complex ones"),
          ({"X": [[1], [1, 2]]}, "point['X'] must be an array of numbers, got a list (rows of unequal length)"),
          ({"X": np.zeros((12, 2), "M8[D]")}, "point['X'] must hold numbers, got dates"),
      )],
    (lambda t: t["objective"]({**t["point"], "sigma": None}), "point['sigma'] must be an array of numbers, got None"),
    (lambda t: M.gradients(t["model"], {**t["point"], "sigma": None}), "point['sigma'] must be an array of numbers, got None"),
    (lambda t: M.gradients(t["model"], at(t, sigma=np.nan)), "point['sigma'] must be finite"),
    (lambda t: np.isneginf(t["objective"](at(t, sigma=-1.0))[0]), 1.0),
    *[(lambda t, v=v: t["objective"](v), "point must be a mapping of") for v in (None, [1], "pca", 3.0)],
    *[(lambda t, v=v: M.gradients(t["model"], v), "gradients needs a fit") for v in (None, [1], "pca", 3.0)],
    (lambda t: t["objective"](t["best"]), "point must"),
    (lambda t: M.gradients(t["model"], t["other"]), "point must be a fit of the model's table, got one of another: 36 entries"),
    (lambda t: M.gradients(t["model"], t["narrow"]), "point must be a fit of the model's table, got one of another"),
    (lambda t: M.gradients(t["model"], t["ard"]), "point['lengthscale'] must have shape (), got (2,)"),
    *[(lambda t, v=v: M.compile_objective(t["model"], backend=v), "backend must be 'python', 'numba' or 'jax', got") for v in ("c", None, 3)],
    *[(lambda t, v=v: M.compile_mode(v), "backend must be 'python', 'numba' or 'jax', got") for v in ("c", None, 3)],
    *[(lambda t, v=v: M.compile_objective(t["model"], compile_kwargs=v), "compile_kwargs must be a mapping from arguments") for v in (3, "x", [1])],
    (lambda t: M.compile_objective(t["model"], compile_kwargs={"nope": 1}), "compile_kwargs must name arguments of pytensor.function"),
    (lambda t: gplvm.fit_map(t["model"], compile_kwargs={"inputs": 1}, **Q), "compile_kwargs must name arguments of pytensor.function"),
]

BAD = ("text", None, np.nan, -1, True, [1])
ABOUT_NUMBERS = [
    *[(lambda t, f=f, v=v: f(t, v), name)
      for name, f in (
          ("beta_min must", lambda t, v: gplvm.sample(t["model"], beta_min=v, **FEW)),
          ("n_proposals must", lambda t, v: gplvm.sample(t["model"], n_proposals=v, **FEW)),
          ("replicas must", lambda t, v: gplvm.sample(t["model"], replicas=v, **FEW)),
          ("hold must", lambda t, v: gplvm.add_rows(t["best"], t["rows"], hold=v, steps=2, **Q)),
          ("hold must", lambda t, v: gplvm.fit_variational(t["model"], n_inducing=3, hold=v, **Q)),
          ("hold must", lambda t, v: gplvm.fit_sparse(t["model"], n_inducing=3, hold=v, **Q)),
          ("momentum must", lambda t, v: gplvm.add_rows(t["best"], t["rows"], momentum=v, steps=2, **Q)),
          ("momentum must", lambda t, v: gplvm.fit_stochastic(t["model"], momentum=v, steps=2, **Q)),
          ("learning_rate_theta must", lambda t, v: gplvm.add_rows(t["best"], t["rows"], learning_rate_theta=v, steps=2, **Q)),
          ("learning_rate_theta must", lambda t, v: gplvm.fit_stochastic(t["model"], learning_rate_theta=v, steps=2, **Q)),
          ("monitor must", lambda t, v: gplvm.fit_stochastic(t["model"], monitor=v, steps=2, **Q)),
          ("tol must", lambda t, v: gplvm.fit_variational(t["model"], n_inducing=3, tol=v, **Q)),
          ("tol must", lambda t, v: gplvm.fit_sparse(t["model"], n_inducing=3, tol=v, **Q)),
          ("grid must", lambda t, v: P.latent(t["best"], grid=v)),
          ("grid must", lambda t, v: P.magnification(t["best"], grid=v)),
          ("grid must", lambda t, v: P.reconstruction(t["best"], grid=v)),
          ("grid must", lambda t, v: P.explore(t["best"], grid=v)),
          ("n must", lambda t, v: gplvm.data.load_digits(v)),
          ("latent_dim must", lambda t, v: gplvm.build_model(t["Y"], v)),
          ("method must", lambda t, v: M.build_sparse(t["model"], method=v)),
          ("scale must", lambda t, v: gplvm.build_model(t["Y"], scale=v)),
          ("missing must", lambda t, v: gplvm.build_model(t["Y"], missing=v)),
          ("noise must", lambda t, v: gplvm.build_model(t["Y"], noise=v)),
      )
      for v in BAD],
    *[(lambda t, f=f, v=v: f(t, v), name)
      for name, f in (
          ("image_shape must", lambda t, v: P.reconstruction(t["best"], image_shape=v)),
          ("image_shape must", lambda t, v: P.explore(t["best"], image_shape=v)),
          ("dims must", lambda t, v: P.latent(t["best"], dims=v)),
          ("dims must", lambda t, v: P.reconstruction(t["best"], dims=v)),
          ("dims must", lambda t, v: P.magnification(t["best"], dims=v)),
          ("dims must", lambda t, v: P.explore(t["best"], dims=v)),
          ("dims must", lambda t, v: P.compare({"a": t["best"]}, dims=v)),
          ("ax must", lambda t, v: P.latent(t["best"], ax=v)),
          ("axes must", lambda t, v: P.optima(t["best"], axes=v)),
          ("axes must", lambda t, v: P.prior(t["prior"], axes=v)),
      )
      for v in ("text", np.nan, -1, True, [1])],
    *[(lambda t, v=v: P.latent(t["best"], dims=v), "dims must be two different dimensions below 2, got") for v in ((0, 0), (0, 2), (0, -1), ("a", "b"), (0.0, 1.0), (0, 1, 1), (True, False), {})],
    *[(lambda t, v=v: P.reconstruction(t["best"], image_shape=v), "image_shape must be (height, width)") for v in ((2, 3), (2, 2, 1), ("a", "b"), (2.0, 2.0), (-2, -2), (4,), (True, 4))],
    *[(lambda t, f=f, v=v: f(t, v), "must lie within 1e+08 scales of the fit's table, got")
      for v in (1e90, -1e99, 1e12)
      for f in (
          lambda t, v: gplvm.embed(t["best"], np.full((1, 4), v), **ROWS),
          lambda t, v: gplvm.impute(t["best"], np.full((1, 4), v), **ROWS),
          lambda t, v: gplvm.log_predictive(t["best"], np.full((1, 4), v), **ROWS),
          lambda t, v: gplvm.add_rows(t["best"], np.full((1, 4), v), steps=2, **Q),
      )],
    (lambda t: gplvm.embed(t["best"], np.full((1, 4), 1e300), **ROWS), "between -1e100 and 1e100"),
    (lambda t: gplvm.predict(t["linear"], np.full((1, 2), 1e300)), "between -1e100 and 1e100"),
    (lambda t: D.magnification(t["best"], np.full((1, 2), 1e200)), "between -1e100 and 1e100"),
    (lambda t: gplvm.predict(t["linear"], np.full((1, 2), 1e98))["sd"].notnull().all(), 1.0),
    (lambda t: gplvm.log_predictive(t["best"], np.full((1, 4), 1e6), **ROWS)["log_score"].notnull().all(), 1.0),
    (lambda t: gplvm.predict(t["best"], t["X"][:0]), "X_new must"),
    (lambda t: D.magnification(t["best"], t["X"][:0]), "X_new must"),
    (lambda t: gplvm.embed(t["best"], t["rows"][:0], **ROWS), "Y_new must have at least one row"),
    (lambda t: gplvm.add_rows(t["best"], t["rows"], hold=np.inf, steps=2, random_seed=1, **Q)["posterior"].sizes["obs"], 14.0),
]
# fmt: on

CASES = {
    "fit": ABOUT_FITS,
    "diagnostic": ABOUT_DIAGNOSTICS,
    "model": ABOUT_MODELS,
    "part": ABOUT_PARTS,
    "number": ABOUT_NUMBERS,
}


def test_there_are_many_cases():
    assert sum(map(len, CASES.values())) > 250
    assert len(EDITED) > 500


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(*case, id=f"{kind} {i}: {case[1]}")
        for kind, cases in CASES.items()
        for i, case in enumerate(cases)
    ],
)
def test_calls(made, call, expected):
    check(call, made, expected)
