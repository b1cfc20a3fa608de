"""Known inputs of the kernel beside X: K, derivatives, what they are read from, and a truth with batches."""

import warnings
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm
import pytensor
import pytest
import xarray as xr
from scipy.spatial import procrustes
from scipy.stats import spearmanr
from sklearn.gaussian_process.kernels import RBF
from sklearn.neighbors import NearestNeighbors

import pm_gplvm as gplvm
from pm_gplvm.model.compile import compile_mode
from pm_gplvm.model.spec import ModelSpec, tables_of
from pm_gplvm.model.volume import log_volume

N, D = 72, 12
QUIET = {"random_seed": 1, "progressbar": False}


def smooth(rng, A, lengthscale):
    K = RBF(lengthscale)(A) + 1e-8 * np.eye(len(A))
    return np.linalg.cholesky(K) @ rng.standard_normal((len(A), D))


@cache
def simulated():
    """Three groups of rows, two batches that hold a third, a half and two thirds of them, and a dose."""
    rng = np.random.default_rng(5)
    group = np.repeat([0, 1, 2], N // 3)
    X = np.array([[-1.5, 0.0], [1.5, 0.0], [0.0, 2.0]])[group] + 0.4 * rng.standard_normal((N, 2))
    batch = np.where(rng.random(N) < np.array([0.3, 0.5, 0.7])[group], "second", "first")
    dose = rng.uniform(0.0, 3.0, N)
    offsets = 1.5 * rng.standard_normal((2, D))
    of_batch = offsets[(batch == "second").astype(int)]
    of_dose = smooth(rng, dose[:, None], 1.5)
    Y = smooth(rng, X, 2.0) + of_batch + of_dose + 0.2 * rng.standard_normal((N, D))
    rows = [f"r{i}" for i in range(N)]
    inputs = pd.DataFrame({"dose": dose, "batch": batch}, index=rows)
    return pd.DataFrame(Y, index=rows), inputs, X, group, of_dose, of_batch


@cache
def fitted(known=True):
    Y, inputs, *_ = simulated()
    model = gplvm.build_model(Y, inputs=inputs) if known else gplvm.build_model(Y)
    return gplvm.fit_marginal(model, **QUIET)


def quick(model):
    """Fit without arriving."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gplvm.fit_map(model, max_iter=10, n_restarts=0, relocate=False, **QUIET)


def shares(X, labels):
    """Share of the eight nearest rows that have a row's label."""
    near = NearestNeighbors(n_neighbors=8).fit(X).kneighbors(return_distance=False)
    return float((labels[near] == labels[:, None]).mean())


def test_truth_with_batches_and_dose():
    _, inputs, X, group, of_dose, of_batch = simulated()
    batch, found = inputs["batch"].to_numpy(), {}
    for known in (True, False):
        Z = fitted(known).posterior["X"].to_numpy()[0, 0]
        distances = [np.linalg.norm(A[:, None] - A, axis=2)[np.triu_indices(N, 1)] for A in (X, Z)]
        found[known] = (
            procrustes(X, Z)[2],
            spearmanr(*distances)[0],
            shares(Z, batch),
            shares(Z, group),
        )
    alike = np.mean([(batch[i] == batch[group == group[i]]).mean() for i in range(N)])
    disparity, rank, of_batches, of_groups = found[True]
    assert disparity < 0.1
    assert rank > 0.9
    assert of_batches < alike + 0.12
    assert of_groups > 0.93
    disparity, rank, of_batches, _ = found[False]
    assert disparity > 0.3
    assert rank < 0.7
    assert of_batches > 0.93
    # What inputs do is told by themselves, up to a constant of each column.
    parts = gplvm.reconstruct(fitted(), parts=True)["part_mean"]
    for name, true in (("dose", of_dose), ("batch", of_batch)):
        own = parts.sel(part=name).to_numpy()
        own, true = own - own.mean(axis=0), true - true.mean(axis=0)
        assert ((own - true) ** 2).sum() < 0.1 * (true**2).sum(), name


def by_hand(X, inputs, theta):
    """K of rows by scikit-learn's kernels."""
    dose = inputs["dose"].to_numpy()
    z = ((dose - dose.mean()) / dose.std())[:, None]
    same = inputs["batch"].to_numpy()[:, None] == inputs["batch"].to_numpy()
    a, length = theta["amplitude"], theta["lengthscale"]
    of_X = a[0] ** 2 * RBF(length[0])(X)
    return (
        of_X
        + a[1] ** 2 * RBF(length[1])(z)
        + a[2] ** 2 * same
        + theta["sigma"] ** 2 * np.eye(len(X))
    )


THETA = {
    "lengthscale": np.array([1.3, 0.7]),
    "amplitude": np.array([0.9, 0.5, 1.2]),
    "sigma": np.array(0.3),
}


def test_covariance_is_that_of_scikit_learn():
    Y, inputs, X, *_ = simulated()
    model = gplvm.build_model(Y, inputs=inputs)
    K = tables_of(model)[0].cov
    values = {model[name]: value for name, value in {"X": X, **THETA}.items()}
    floor = model["Y_resolution"].get_value() if "Y_resolution" in model.named_vars else 0.0
    function = pytensor.function(list(values), K, mode=compile_mode())
    found = function(*values.values()) - floor**2 * np.eye(N)
    np.testing.assert_allclose(found, by_hand(X, inputs, THETA), atol=1e-10)
    assert ModelSpec.of(model).kernel == "rbf[0,1] + rbf[2] + linear[3,4,5]"
    assert model.coords["kernel_term"] == ("rbf", "dose", "batch")
    assert model.coords["kernel_factor"] == ("rbf", "dose")


def test_gradient_is_that_of_differences():
    Y, inputs, X, *_ = simulated()
    objective = gplvm.model.compile_objective(gplvm.build_model(Y, inputs=inputs))
    point = {"X": X, **THETA}
    slopes = objective(point)[1]
    rng, h = np.random.default_rng(0), 1e-5
    for name, value in point.items():
        way = rng.standard_normal(np.shape(value))
        ends = [objective(point | {name: value + s * h * way})[0] for s in (1.0, -1.0)]
        along = (ends[0] - ends[1]) / (2.0 * h)
        np.testing.assert_allclose(np.sum(slopes[name] * way), along, rtol=1e-6, err_msg=name)


def test_the_determinant_is_of_the_slopes_in_X():
    """Inputs add nothing to h: with amplitudes of theirs as small as can be it is that without inputs."""
    Y, inputs, X, *_ = simulated()
    with_inputs = gplvm.build_model(Y, inputs=inputs)
    without = gplvm.build_model(Y, kernel="rbf[0,1]")
    values = []
    for model, n in ((with_inputs, 3), (without, 1)):
        theta = {
            "lengthscale": [1.3, 0.7][: min(n, 2)],
            "amplitude": [0.9, 0.5, 1.2][:n],
            "sigma": 0.3,
        }
        at = {model[name]: np.asarray(value) for name, value in theta.items()}
        values.append(
            float(log_volume(model).eval({model["X"]: X, **at}, on_unused_input="ignore"))
        )
    np.testing.assert_allclose(values[0], values[1], rtol=1e-12)


def test_predictions_are_those_of_the_conditional():
    Y, inputs, *_ = simulated()
    fit = fitted()
    read = fit.posterior.isel(chain=0, draw=0)
    X, theta = read["X"].to_numpy(), {n: read[n].to_numpy() for n in THETA}
    floor = fit.constant_data.get("Y_resolution", 0.0)
    theta["sigma"] = np.hypot(theta["sigma"], float(floor))
    K = by_hand(X, inputs, theta)
    mean, scale = (fit.constant_data[n].to_numpy() for n in ("Y_mean", "Y_scale"))
    new_X = np.array([[0.1, -0.3], [0.7, 0.2], [-0.5, 0.4]])
    new = pd.DataFrame({"dose": [0.2, 1.0, 2.0], "batch": ["first", "second", "a third"]})
    both_X, both = np.vstack([X, new_X]), pd.concat([inputs, new], ignore_index=True)
    # Standardised by the table's rows, not by all.
    z = ((both["dose"] - inputs["dose"].mean()) / inputs["dose"].std(ddof=0)).to_numpy()[:, None]
    a, length = theta["amplitude"], theta["lengthscale"]
    same = both["batch"].to_numpy()[:, None] == both["batch"].to_numpy()
    terms = [a[0] ** 2 * RBF(length[0])(both_X), a[1] ** 2 * RBF(length[1])(z), a[2] ** 2 * same]
    F = (Y.to_numpy() - mean) / scale
    found = gplvm.predict(fit, new_X, inputs=new, parts=True, cov=True)
    for name, term in zip(["latent", "dose", "batch"], terms, strict=True):
        cross, prior = term[N:, :N], term[N:, N:]
        expected = scale * (cross @ np.linalg.solve(K, F)) + mean * (name == "latent")
        variance = np.diag(prior - cross @ np.linalg.solve(K, cross.T))
        own = found.sel(part=name)
        np.testing.assert_allclose(own["part_mean"], expected, atol=1e-8)
        wanted = np.sqrt(variance)[:, None] * scale
        np.testing.assert_allclose(own["part_sd"], wanted, rtol=1e-6)
    cross, prior = sum(terms)[N:, :N], sum(terms)[N:, N:]
    whole = prior - cross @ np.linalg.solve(K, cross.T)
    np.testing.assert_allclose(found["cov"][:, :, 0], scale[0] ** 2 * whole, atol=1e-8)
    np.testing.assert_allclose(found["part_mean"].sum("part"), found["mean"], atol=1e-10)
    # Of a class that the table has not nothing is known.
    strange = found.sel(part="batch").isel(obs_new=2)
    np.testing.assert_allclose(strange["part_mean"], 0.0, atol=1e-12)
    np.testing.assert_allclose(strange["part_sd"], a[2] * scale, rtol=1e-8)
    one = gplvm.predict(fit, new_X, inputs=new, without="batch")
    rest = found["mean"] - found["part_mean"].sel(part="batch")
    np.testing.assert_allclose(one["mean"], rest, atol=1e-10)
    free = gplvm.predict(fit, new_X, without=["batch", "dose"])
    np.testing.assert_allclose(free["mean"], found["part_mean"].sel(part="latent"), atol=1e-10)


def test_reconstruction_is_the_prediction_at_the_rows():
    Y, inputs, *_ = simulated()
    fit = fitted()
    own = gplvm.reconstruct(fit, parts=True)
    same = gplvm.predict(fit, fit.posterior["X"].to_numpy()[0, 0], inputs=inputs, parts=True)
    for name in ("mean", "sd", "part_mean", "part_sd"):
        np.testing.assert_allclose(own[name], same[name], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(own["part_mean"].sum("part"), own["mean"], atol=1e-10)
    without = gplvm.reconstruct(fit, without=["batch"])["mean"]
    rest = own["mean"] - own["part_mean"].sel(part="batch")
    np.testing.assert_allclose(without, rest, atol=1e-10)
    # Y less the part of the batch: no column differs between batches of one group by more than chance.
    clean = Y.to_numpy() - own["part_mean"].sel(part="batch").to_numpy()
    second = (inputs["batch"] == "second").to_numpy()
    before, after = (
        abs(A[second].mean(axis=0) - A[~second].mean(axis=0)).mean() for A in (Y.to_numpy(), clean)
    )
    assert after < 0.5 * before


def test_new_rows_by_their_inputs():
    Y, inputs, *_ = simulated()
    fit = gplvm.fit_marginal(gplvm.build_model(Y[:-4], inputs=inputs), **QUIET)
    settings = {"draws": 100, "num_samples": 1, "n_starts": 4, **QUIET}
    placed = gplvm.embed(fit, Y[-4:], inputs=inputs, **settings)
    alone = gplvm.embed(fit, Y[-2:-1], inputs=inputs[-2:-1], **settings)
    np.testing.assert_array_equal(placed.posterior["X"][0, :, 2], alone.posterior["X"][0, :, 0])
    turned = inputs.assign(batch=np.where(inputs["batch"] == "first", "second", "first"))
    right, wrong = (
        gplvm.log_predictive(fit, Y[-4:], inputs=given, **settings)["log_score"]
        for given in (inputs, turned)
    )
    assert (right > wrong + 5.0).all()
    holes = Y[-4:].copy()
    holes.iloc[:, :3] = np.nan
    filled = gplvm.impute(fit, holes, inputs=inputs, **settings)
    z = ((filled["mean"] - Y[-4:].to_numpy()) / filled["sd"]).to_numpy()[:, :3]
    assert 0.3 < np.sqrt((z**2).mean()) < 2.0
    longer = gplvm.add_rows(fit, Y[-4:], inputs=inputs, steps=5, **QUIET)
    np.testing.assert_allclose(
        longer.constant_data["inputs"][-4:, 0], _standardised(fit, inputs["dose"][-4:])
    )
    assert gplvm.reconstruct(longer, parts=True)["part_mean"].shape == (3, N, D)


def _standardised(fit, dose):
    known = fit.constant_data.sel(input_column="dose")
    return (dose - float(known["inputs_mean"])) / float(known["inputs_scale"])


def test_saved_and_built_again(tmp_path):
    fit = fitted()
    read = gplvm.load(gplvm.save(fit, tmp_path / "fit.nc"))
    xr.testing.assert_equal(gplvm.reconstruct(read), gplvm.reconstruct(fit))
    model = gplvm.model.rebuild(read)
    whole = gplvm.build_model(simulated()[0], inputs=simulated()[1])
    assert model.coords["kernel_term"] == whole.coords["kernel_term"]
    point = {n: fit.posterior[n].to_numpy()[0, 0] for n in ("X", *THETA)}
    values = [gplvm.model.compile_objective(m)(point)[0] for m in (model, whole)]
    np.testing.assert_allclose(*values, rtol=1e-12)
    told = gplvm.summary(fit)
    assert "inputs dose, batch (2 classes)" in str(told)
    length = float(fit.posterior["lengthscale"][0, 0, 1] * fit.constant_data["inputs_scale"][0])
    np.testing.assert_allclose(told.theta.loc["lengthscale[dose]", "value"], length)
    assert told.theta.loc["lengthscale[dose]", "unit"] == "dose"


def test_the_plot_of_parts():
    ax = gplvm.plot.parts(fitted(), [0, 3])
    assert [each.get_xlabel() for each in ax] == ["dose", "batch"]
    own = gplvm.reconstruct(fitted(), parts=True)["part_mean"]
    # Curves and points are the parts: at the dose of a row that of the row.
    dose, curve = ax[0].get_lines()[1].get_data()
    row = own.sel(part="dose").to_numpy()[:, 3]
    np.testing.assert_allclose(np.interp(simulated()[1]["dose"], dose, curve), row, atol=0.02)
    points = [bar.lines[0].get_ydata() for bar in ax[1].containers]
    second = int(np.flatnonzero(simulated()[1]["batch"] == "second")[0])
    np.testing.assert_allclose([p[1] for p in points], own.sel(part="batch")[second, [0, 3]])
    with pytest.raises(ValueError, match="axes must be 2"):
        gplvm.plot.parts(fitted(), axes=ax[:1])
    with pytest.raises(ValueError, match="needs a fit of a model with inputs"):
        gplvm.plot.parts(fitted(False))
    plt.close("all")


def test_equal_rows_with_other_inputs_are_no_copies():
    Y, inputs, *_ = simulated()
    Y, inputs = Y.to_numpy()[:30].copy(), inputs[:30].reset_index(drop=True)
    Y[1] = Y[0]
    fit = quick(gplvm.build_model(Y, inputs=inputs))
    assert not np.allclose(*fit.posterior["X"].to_numpy()[0, 0, :2])


def test_holes():
    Y, inputs, *_ = simulated()
    Y, inputs = Y[:40].copy(), inputs[:40]
    Y.iloc[:7, :2] = np.nan
    fit = quick(gplvm.build_model(Y, inputs=inputs, missing="mask"))
    own = gplvm.reconstruct(fit, parts=True)
    np.testing.assert_allclose(own["part_mean"].sum("part"), own["mean"], atol=1e-10)
    assert (gplvm.impute(fit)["sd"] > 0.0).sum() == 14


SHUFFLED = {
    "frame": lambda t: t.sample(frac=1.0, random_state=1),
    "mapping": lambda t: {n: t[n].sample(frac=1.0, random_state=2) for n in t},
    "dataset": lambda t: xr.Dataset.from_dataframe(t.rename_axis("obs"))[["dose", "batch"]],
    "arrays": lambda t: {"dose": t["dose"].tolist(), "batch": t["batch"].to_numpy()},
    "categories": lambda t: t.assign(batch=t["batch"].astype("category")),
    "more rows": lambda t: pd.concat([t, t.rename(index="x{}".format)]),
}


@pytest.mark.parametrize("kind", SHUFFLED)
def test_inputs_are_joined_by_label(kind):
    Y, inputs, *_ = simulated()
    expected = gplvm.build_model(Y, inputs=inputs)["inputs"].get_value()
    found = gplvm.build_model(Y, inputs=SHUFFLED[kind](inputs))["inputs"].get_value()
    np.testing.assert_array_equal(found, expected)


def test_bools_and_sequences_of_numbers():
    Y = simulated()[0].to_numpy()
    given = {"treated": np.arange(N) % 2 == 0, "day": [float(i % 5) for i in range(N)]}
    model = gplvm.build_model(Y, inputs=given)
    columns = ("treated=False", "treated=True", "treated=", "day")
    assert tuple(map(str, model.coords["input_column"])) == columns


def other(**changes):
    return lambda t: t.assign(**changes)


BAD = {
    "other labels": (lambda t: t.rename(index="x{}".format), "must have the rows of the table"),
    "text": (lambda t: "batch", "inputs must be a DataFrame"),
    "none": (lambda t: {}, "at least one, got none"),
    "short": (lambda t: {"dose": [1.0, 2.0]}, "one entry for each of the 72 rows"),
    "missing number": (other(dose=[np.nan, *range(N - 1)]), "must be known in every row, got 1"),
    "missing class": (
        other(batch=[None, *["a", "b"] * 35, "a"]),
        "must be known in every row, got 1",
    ),
    "constant": (other(dose=1.0), "must differ between rows, got 1 in every row"),
    "one class": (other(batch="a"), "got 'a' in every row"),
    "a class a row": (other(batch=[f"b{i}" for i in range(N)]), "got another in each row"),
    "dates": (
        other(dose=pd.date_range("2024", periods=N)),
        "dose.*must hold numbers, got datetime64",
    ),
    "latent": (lambda t: t.rename(columns={"dose": "latent"}), "not 'latent', got 'latent'"),
    "equals": (lambda t: t.rename(columns={"dose": "a=b"}), "text without '='"),
    "number for a name": (lambda t: t.rename(columns={"dose": 3}), "names that are text"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_input_is_refused(kind):
    Y, inputs, *_ = simulated()
    given, text = BAD[kind]
    with pytest.raises((TypeError, ValueError), match=text):
        gplvm.build_model(Y, inputs=given(inputs))


BESIDE = {
    "noise": ({"noise": "column"}, "noise='column'"),
    "likelihood": ({"likelihood": "poisson"}, "likelihood='gaussian'"),
    "dims": ({"kernel": "rbf[0,2]"}, "from 0 to 1"),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_options_that_inputs_do_not_go_with(kind):
    Y, inputs, *_ = simulated()
    options, text = BESIDE[kind]
    with pytest.raises(ValueError, match=text):
        gplvm.build_model(abs(Y).round(), inputs=inputs, **options)
    with pytest.raises(ValueError, match="of one table"):
        gplvm.build_model({"a": Y, "b": Y}, inputs=inputs)


@pytest.mark.parametrize("kernel", ["rbf + linear + bias", "matern32[0] * periodic[1]", "linear"])
def test_other_kernels_keep_their_names(kernel):
    Y, inputs, *_ = simulated()
    model = gplvm.build_model(Y[:30], kernel=kernel, ard=kernel != "linear", inputs=inputs)
    fit = quick(model)
    again = gplvm.model.rebuild(fit)
    assert again.coords["kernel_term"] == model.coords["kernel_term"]
    own = gplvm.reconstruct(fit, parts=True)
    np.testing.assert_allclose(own["part_mean"].sum("part"), own["mean"], atol=1e-10)
    assert model.coords["kernel_term"][-2:] == ("dose", "batch")


NEW = {
    "none": (None, "needs inputs of the new rows, dose, batch"),
    "one": ({"dose": 1.0}, "got none of batch"),
    "another": ({"dose": 1.0, "batch": "first", "day": 3}, "got day too"),
    "short": ({"dose": [1.0], "batch": "first"}, "one entry for each of the 2 new rows"),
    "missing": ({"dose": np.nan, "batch": "first"}, "must be finite"),
    "no class": ({"dose": 1.0, "batch": None}, "must be known in every row"),
    "text": ({"dose": "high", "batch": "first"}, "dose.*must hold numbers"),
}


@pytest.mark.parametrize("kind", NEW)
def test_inputs_of_new_rows_are_checked(kind):
    given, text = NEW[kind]
    with pytest.raises((TypeError, ValueError), match=text):
        gplvm.predict(fitted(), np.zeros((2, 2)), inputs=given)


def test_what_asks_for_inputs_of_a_fit_without():
    fit, x = fitted(False), np.zeros((2, 2))
    for options, text in (
        ({"inputs": {"dose": 1.0}}, "got a fit without"),
        ({"parts": True}, "parts is of a model with inputs"),
        ({"without": "batch"}, "without is of a model with inputs"),
    ):
        with pytest.raises(ValueError, match=text):
            gplvm.predict(fit, x, **options)
    for names in (["day"], ["latent", "dose", "batch"]):
        with pytest.raises(ValueError, match="without must name some parts"):
            gplvm.reconstruct(fitted(), without=names)
    two = {"dose": 1.0, "batch": ["third", "fourth"]}
    with pytest.raises(ValueError, match="knows one class at a time"):
        gplvm.predict(fitted(), x, inputs=two, cov=True)
    assert gplvm.predict(fitted(), x, inputs=two)["mean"].shape == (2, D)


def test_the_scores_of_folds_are_given_their_inputs():
    Y, inputs = (t[::3] for t in simulated()[:2])
    options = {"fit": quick, "n_folds": 2, "draws": 100, "num_samples": 1, **QUIET}
    found = [
        gplvm.diagnostics.cross_validate(Y, **options, **given)["log_score"].mean()
        for given in ({"inputs": inputs}, {})
    ]
    assert found[0] > found[1] + 1.0


MODEL = lambda: gplvm.build_model(*[simulated()[0]], inputs=simulated()[1])  # noqa: E731
REFUSED = {
    "fit_sparse": (lambda: gplvm.fit_sparse(MODEL(), **QUIET), "needs a model without inputs"),
    "fit_variational": (
        lambda: gplvm.fit_variational(MODEL(), **QUIET),
        "needs a model without inputs",
    ),
    "own kernel": (
        lambda: gplvm.build_model(
            simulated()[0],
            kernel=lambda input_dim, lengthscale: pm.gp.cov.ExpQuad(input_dim, ls=lengthscale),
            inputs=simulated()[1],
        ),
        "got a covariance of your own",
    ),
    "fit_linear": (lambda: gplvm.fit_linear(MODEL()), "fit_linear needs a model without inputs"),
    "from_fit": (lambda: gplvm.GPLVM.from_fit(fitted()), "from_fit needs a fit without inputs"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_takes_no_inputs_says_so(kind):
    call, text = REFUSED[kind]
    with pytest.raises(ValueError, match=text):
        call()


@cache
def by_minibatches():
    Y, inputs, *_ = simulated()
    settings = {"n_inducing": 30, "epochs": 200, **QUIET}
    return gplvm.fit_svi(gplvm.build_model(Y, inputs=inputs), **settings)


def test_minibatches_find_the_same_truth():
    _, _, X, group, of_dose, of_batch = simulated()
    fit = by_minibatches()
    Z = fit["approximation"]["X_mean"].to_numpy()
    assert procrustes(X, Z)[2] < 0.1
    assert shares(Z, group) > 0.93
    parts = gplvm.reconstruct(fit, parts=True)
    np.testing.assert_allclose(parts["part_mean"].sum("part"), parts["mean"], atol=1e-10)
    for name, true in (("dose", of_dose), ("batch", of_batch)):
        own = parts["part_mean"].sel(part=name).to_numpy()
        own, true = own - own.mean(axis=0), true - true.mean(axis=0)
        assert ((own - true) ** 2).sum() < 0.15 * (true**2).sum(), name
    without = gplvm.reconstruct(fit, without="batch")["mean"]
    rest = parts["mean"] - parts["part_mean"].sel(part="batch")
    np.testing.assert_allclose(without, rest, atol=1e-10)


def test_minibatches_at_inputs_of_new_rows():
    Y, inputs, *_ = simulated()
    fit, new = by_minibatches(), inputs[:40].assign(batch=["first", "another"] * 20)
    x = fit["approximation"]["X_mean"].to_numpy()[:40]
    whole = gplvm.predict(fit, x, inputs=new, parts=True, X_sd=0.1)
    np.testing.assert_allclose(whole["part_mean"].sum("part"), whole["mean"], atol=1e-10)
    # More rows than are treated together, each at its own inputs.
    alone = gplvm.predict(fit, x[7:8], inputs=new[7:8], X_sd=0.1)
    np.testing.assert_allclose(alone["mean"][0], whole["mean"][7], atol=1e-10)
    strange = whole.sel(part="batch").isel(obs_new=1)
    wanted = fit.posterior["amplitude"][0, 0, 2] * fit.constant_data["Y_scale"]
    np.testing.assert_allclose(strange["part_sd"], wanted, rtol=1e-6)
    settings = {"draws": 100, "num_samples": 1, "n_starts": 4, **QUIET}
    placed = gplvm.embed(fit, Y[-4:], inputs=inputs, **settings)
    single = gplvm.embed(fit, Y[-2:-1], inputs=inputs[-2:-1], **settings)
    np.testing.assert_array_equal(placed.posterior["X"][0, :, 2], single.posterior["X"][0, :, 0])


@pytest.mark.parametrize("fit", [fitted, by_minibatches], ids=["exact", "minibatches"])
def test_magnification_is_that_of_what_X_does(fit):
    fit, x, h = fit(), np.array([[0.1, -0.2]]), 1e-5
    alone = {"without": ["dose", "batch"]}
    rise = [
        gplvm.predict(fit, x + h * e, **alone)["mean"]
        - gplvm.predict(fit, x - h * e, **alone)["mean"]
        for e in np.eye(2)
    ]
    J = np.stack(rise)[:, 0] / (2.0 * h)
    found = gplvm.diagnostics.magnification(fit, x)["from_mean"]
    np.testing.assert_allclose(found, np.sqrt(np.linalg.det(J @ J.T)), rtol=1e-4)


def test_counts_with_batches():
    Y, inputs, *_ = simulated()
    counts = np.random.default_rng(1).poisson(np.exp(0.4 * Y))
    counts = pd.DataFrame(counts, index=Y.index)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"n_inducing": 20, "epochs": 60, **QUIET}
        fit = gplvm.fit_svi(counts, likelihood="poisson", inputs=inputs, **settings)
    found, without = gplvm.reconstruct(fit)["mean"], gplvm.reconstruct(fit, without="batch")["mean"]
    second = (inputs["batch"] == "second").to_numpy()
    gaps = [
        abs(np.log(m[second].mean("obs") / m[~second].mean("obs"))).mean() for m in (found, without)
    ]
    assert gaps[1] < 0.7 * gaps[0]
    with pytest.raises(ValueError, match="needs a Gaussian or Student-t likelihood"):
        gplvm.reconstruct(fit, parts=True)


SERVED = {
    "plot.latent": lambda fit: gplvm.plot.latent(fit, grid=3),
    "plot.reconstruction": lambda fit: gplvm.plot.reconstruction(fit, grid=2),
    "plot.magnification": lambda fit: gplvm.plot.magnification(fit, grid=3),
    "plot.explore": lambda fit: gplvm.plot.explore(fit, grid=4, num_samples=2),
    "plot.relevance": lambda fit: gplvm.plot.relevance(fit),
    "align": lambda fit: gplvm.align(fit),
    "compare": lambda fit: gplvm.compare({"a": fit}, n_neighbors=3),
    "diagnose": lambda fit: gplvm.diagnose(fit),
    "sample_predictive": lambda fit: gplvm.sample_predictive(
        fit, np.zeros((2, 2)), inputs={"dose": [0.0, 1.0], "batch": "first"}, random_seed=1
    ),
    "impute": lambda fit: gplvm.impute(fit),
    "active_dimensions": lambda fit: gplvm.diagnostics.active_dimensions(fit),
    "score_entries": lambda fit: gplvm.diagnostics.score_entries(fit, simulated()[0]),
    "neighbours": lambda fit: gplvm.diagnostics.neighbour_probabilities(fit, n_neighbors=3),
}
OF_MODELS = {
    "leave_one_out": lambda fit: gplvm.diagnostics.leave_one_out(fit),
    "compute_log_likelihood": lambda fit: gplvm.diagnostics.compute_log_likelihood(fit),
    "compute_log_prior": lambda fit: gplvm.diagnostics.compute_log_prior(fit),
    "gradients": lambda fit: gplvm.model.gradients(
        gplvm.build_model(simulated()[0], inputs=simulated()[1]), fit
    ),
}


@pytest.mark.parametrize("verb", SERVED)
@pytest.mark.parametrize("fit", [fitted, by_minibatches], ids=["exact", "minibatches"])
def test_verbs_that_need_no_inputs_of_new_rows(verb, fit):
    assert SERVED[verb](fit()) is not None
    plt.close("all")


@pytest.mark.parametrize("verb", OF_MODELS)
def test_verbs_of_exact_fits(verb):
    assert OF_MODELS[verb](fitted()) is not None


def test_an_entry_left_out_is_the_conditional_of_the_others():
    Y, inputs, *_ = simulated()
    fit = fitted()
    read = fit.posterior.isel(chain=0, draw=0)
    theta = {n: read[n].to_numpy() for n in THETA}
    theta["sigma"] = np.hypot(theta["sigma"], float(fit.constant_data.get("Y_resolution", 0.0)))
    precision = np.linalg.inv(by_hand(read["X"].to_numpy(), inputs, theta))
    mean, scale = (fit.constant_data[n].to_numpy() for n in ("Y_mean", "Y_scale"))
    F = (Y.to_numpy() - mean) / scale
    expected = F - (precision @ F) / np.diag(precision)[:, None]
    found = gplvm.diagnostics.leave_one_out(fit)["mean"]
    np.testing.assert_allclose(found, mean + scale * expected, atol=1e-8)
