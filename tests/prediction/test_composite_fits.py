"""Fits with kernels of several factors: what every verb gives of them, and when they are the better ones."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

import pm_gplvm as gplvm

QUIET = {"progressbar": False, "random_seed": 1}
TEXT = "rbf[0] + periodic[1]"


def drawn(K, D, rng):
    return np.linalg.cholesky(K + 1e-8 * np.eye(len(K))) @ rng.normal(size=(len(K), D))


@pytest.fixture(scope="module")
def circle():
    """Rows around a circle, and their angles."""
    rng = np.random.default_rng(0)
    t = rng.uniform(-np.pi, np.pi, 60)
    K = np.exp(-2.0 * np.sin((t[:, None] - t) / 2.0) ** 2)
    return drawn(K, 10, rng) + 0.3 * rng.normal(size=(60, 10)), t


@pytest.fixture(scope="module")
def fit(circle):
    Y, _ = circle
    model = gplvm.build_model(Y[:25], 2, kernel=TEXT, priors={"X": gplvm.priors.circular(dims=1)})
    return gplvm.fit_map(model, max_iter=200, **QUIET)


def of(Y, kernel, latent_dim, *, fit=gplvm.fit_marginal, n_restarts=0, **options):
    model = gplvm.build_model(Y, latent_dim, kernel=kernel, **options)
    return fit(model, n_restarts=n_restarts, **QUIET)


def held_out(fit, Y):
    return float(gplvm.log_predictive(fit, Y, **QUIET)["log_score"].mean())


@pytest.mark.parametrize("seed", [0, 5])
def test_a_circle_is_best_described_by_an_angle(seed):
    rng = np.random.default_rng(seed)
    t = rng.uniform(-np.pi, np.pi, 60)
    K = np.exp(-2.0 * np.sin((t[:, None] - t) / 2.0) ** 2)
    Y = drawn(K, 10, rng) + 0.3 * rng.normal(size=(60, 10))
    around = of(Y[:30], "periodic", 1, priors={"X": gplvm.priors.circular(dims=0)})
    others = [of(Y[:30], "rbf", q) for q in (1, 2)]
    assert held_out(around, Y[30:]) > max(held_out(each, Y[30:]) for each in others) + 0.2
    X = around.posterior["X"].to_numpy()[0, 0, :, 0]
    assert max(abs(np.mean(np.exp(1j * (s * X - t[:30])))) for s in (1.0, -1.0)) > 0.7


@pytest.mark.parametrize("seed", [10, 13])
def test_an_additive_table_is_best_described_by_a_sum(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(100, 2))
    kernels = [np.exp(-0.5 * (x[:, None, q] - x[:, q]) ** 2 / 0.49) for q in range(2)]
    Y = sum(drawn(K, 15, rng) for K in kernels) + 0.2 * rng.normal(size=(100, 15))
    by_sum = of(Y[:60], "rbf[0] + rbf[1]", 2, n_restarts=3)
    whole = of(Y[:60], "rbf", 2, n_restarts=3)
    assert held_out(by_sum, Y[60:]) > held_out(whole, Y[60:]) + 0.5
    marginal = [float(f.sample_stats["log_marginal"][0, 0]) for f in (by_sum, whole)]
    assert marginal[0] > marginal[1] + 10.0


def test_log_predictive_is_the_integral_over_all_periods(circle):
    Y, _ = circle
    fit = of(Y[:30], "periodic", 1, priors={"X": gplvm.priors.circular(dims=0)})
    x = np.linspace(-18.0, 18.0, 6001)
    told = gplvm.predict(fit, x[:, None], noise=True)
    logs = norm.logpdf(Y[30:, None], told["mean"], told["sd"]).sum(axis=-1)
    known = logsumexp(logs + norm.logpdf(x, 0.0, 3.0), axis=1) + np.log(x[1] - x[0])
    found = gplvm.log_predictive(fit, Y[30:], **QUIET)["log_score"]
    assert np.median(abs(found - known)) < 0.03
    assert float(found.mean()) == pytest.approx(known.mean(), abs=0.05)


@pytest.mark.filterwarnings("ignore:fit_map did not converge")
def test_the_named_kernel_and_its_text_give_the_same_predictions(circle):
    Y, _ = circle
    X = np.random.default_rng(2).normal(size=(25, 2))
    theta = {"lengthscale": 0.9, "amplitude": 1.1, "sigma": 0.3}
    fits = []
    for kernel in ("rbf", "rbf[0,1]"):
        model = gplvm.build_model(Y[:25], kernel=kernel, priors=theta)
        start = {"X": X}
        fits.append(
            gplvm.fit_map(model, start=start, max_iter=1, relocate=False, progressbar=False)
        )
    one, other = (f.copy() for f in fits)
    other["posterior"] = one["posterior"]  # the same positions, to the last digit
    at = np.random.default_rng(3).normal(size=(5, 2))
    for verb in (
        lambda f: gplvm.predict(f, at, noise=True),
        lambda f: gplvm.predict(f, at, cov=True),
        lambda f: gplvm.reconstruct(f),
        lambda f: gplvm.diagnostics.leave_one_out(f),
        lambda f: gplvm.diagnostics.magnification(f, at),
        lambda f: gplvm.log_predictive(f, Y[25:28], **QUIET),
    ):
        same, known = verb(other), verb(one)
        for name in known.data_vars:
            np.testing.assert_allclose(same[name], known[name], rtol=1e-7, atol=1e-8, err_msg=name)
    found = [float(f.sample_stats["log_likelihood"][0, 0]) for f in fits]
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_predictions_agree_a_period_later(fit):
    x = np.array([[0.2, 0.5], [-1.0, 2.0]])
    one, other = (gplvm.predict(fit, x + np.array([0.0, turn])) for turn in (0.0, 2.0 * np.pi))
    for name in ("mean", "sd"):
        np.testing.assert_allclose(other[name], one[name], rtol=1e-9)


def test_conditional_by_hand(fit):
    read, x = fit.posterior.isel(chain=0, draw=0), np.array([[0.2, 0.5], [-1.0, 2.0]])
    theta = {n: read[n].to_numpy() for n in ("lengthscale", "amplitude")}
    X, constant = read["X"].to_numpy(), fit.constant_data
    Y = fit.observed_data["Y"].transpose("obs", "feature").to_numpy()
    F = (Y - constant["Y_mean"].to_numpy()) / constant["Y_scale"].to_numpy()

    def k(A, B):
        d = A[:, None] - B
        own = np.exp(-0.5 * d[:, :, 0] ** 2 / theta["lengthscale"][0] ** 2)
        around = np.exp(-2.0 * np.sin(d[:, :, 1] / 2.0) ** 2 / theta["lengthscale"][1] ** 2)
        return theta["amplitude"][0] ** 2 * own + theta["amplitude"][1] ** 2 * around

    floor = float(constant.get("Y_resolution", 0.0))
    K = k(X, X) + (float(read["sigma"]) ** 2 + floor**2) * np.eye(len(X))
    mean = k(x, X) @ np.linalg.solve(K, F) * constant["Y_scale"].to_numpy()
    found = gplvm.predict(fit, x)["mean"]
    np.testing.assert_allclose(found, mean + constant["Y_mean"].to_numpy(), rtol=1e-8)


VERBS = {
    "reconstruct": lambda fit, Y: gplvm.reconstruct(fit),
    "sample_predictive": lambda fit, Y: gplvm.sample_predictive(fit, np.zeros((2, 2))),
    "embed": lambda fit, Y: gplvm.embed(fit, Y[25:27], **QUIET)["posterior"].to_dataset(),
    "log_predictive": lambda fit, Y: gplvm.log_predictive(fit, Y[25:27], **QUIET),
    "leave_one_out": lambda fit, Y: gplvm.diagnostics.leave_one_out(fit),
    "compute_log_likelihood": lambda fit, Y: gplvm.diagnostics.compute_log_likelihood(fit)[
        "log_likelihood"
    ].to_dataset(),
    "magnification": lambda fit, Y: gplvm.diagnostics.magnification(fit, np.zeros((2, 2))),
    "gradients": lambda fit, Y: gplvm.model.gradients(gplvm.model.rebuild(fit, priors=CIRCLE), fit),
}
CIRCLE = {"X": gplvm.priors.circular(dims=1)}


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_give_finite_numbers(verb, fit, circle):
    found = VERBS[verb](fit, circle[0])
    for name, values in found.data_vars.items():
        assert np.isfinite(values).all() or name in ("pareto_k", "low", "high"), name


def test_a_new_row_has_the_circular_prior_without_a_warning(fit, circle, recwarn):
    gplvm.embed(fit, circle[0][25:26], **QUIET)
    assert not [w for w in recwarn if "prior" in str(w.message)]


def test_saved_loaded_and_rebuilt(fit, circle, tmp_path):
    again = gplvm.load(gplvm.save(fit, tmp_path / "fit.nc"))
    assert again.attrs["kernel"] == TEXT
    assert again.posterior["lengthscale"]["kernel_factor"].to_numpy().tolist() == [
        "rbf[0]",
        "periodic[1]",
    ]
    x = np.zeros((1, 2))
    np.testing.assert_array_equal(gplvm.predict(again, x)["mean"], gplvm.predict(fit, x)["mean"])
    model = gplvm.model.rebuild(again, priors=CIRCLE)
    objective = gplvm.model.compile_objective(model)
    at = {n: again.posterior[n].to_numpy()[0, 0] for n in ("X", "lengthscale", "amplitude")}
    value, _ = objective({**at, "sigma": again.posterior["sigma"].to_numpy()[0, 0]})
    assert value == pytest.approx(float(fit.sample_stats["lp"][0, 0]), rel=1e-9)


@pytest.mark.filterwarnings("ignore:fit_map did not converge")
def test_rebuilt_with_a_lengthscale_for_each_dimension(circle):
    Y, _ = circle
    model = gplvm.build_model(Y[:20], 3, kernel="rbf[0,1] * periodic[2]", ard=True)
    fit = gplvm.fit_map(model, max_iter=5, relocate=False, progressbar=False)
    again = gplvm.model.rebuild(fit)
    assert again.coords["kernel_factor"] == ("rbf[0]", "rbf[1]", "periodic[2]")
    assert "lengthscale[periodic[2]]" in str(gplvm.summary(fit))


def test_holes_are_imputed(circle):
    Y = circle[0][:25].copy()
    hidden = np.random.default_rng(1).random(Y.shape) < 0.1
    seen = np.where(hidden, np.nan, Y)
    model = gplvm.build_model(
        seen, 1, kernel="periodic", missing="mask", priors={"X": gplvm.priors.circular(dims=0)}
    )
    filled = gplvm.impute(gplvm.fit_marginal(model, **QUIET))["mean"].to_numpy()
    error = np.sqrt(np.mean((filled - Y)[hidden] ** 2))
    assert error < 0.8 * Y[hidden].std()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "draw"),
    [
        (
            "sample_theta",
            lambda m, f: gplvm.sample_theta(m, f, draws=20, tune=20, chains=1, **QUIET),
        ),
        ("sample", lambda m, f: gplvm.sample(m, draws=4, tune=4, chains=2, **QUIET)),
        ("fit_laplace", lambda m, f: gplvm.fit_laplace(m, start=f, draws=20, **QUIET)),
        ("fit_stochastic", lambda m, f: gplvm.fit_stochastic(m, steps=20, n_neighbors=8, **QUIET)),
    ],
)
def test_other_fits(name, draw, fit):
    model = gplvm.model.rebuild(fit, priors=CIRCLE)
    made = draw(model, fit)
    assert made.attrs["kernel"] == TEXT
    if name == "sample":
        assert made.attrs["backend"] == "python"
    assert np.isfinite(gplvm.predict(made, np.zeros((2, 2)), num_samples=3)["mean"]).all()


@pytest.mark.filterwarnings("ignore:sample")
def test_the_sampler_finds_the_posterior_of_theta(circle):
    """At held positions both samplers draw from one posterior."""
    Y, t = circle
    X, held = t[:20, None], {"lengthscale": 1.0}
    free = gplvm.build_model(Y[:20], 1, kernel="periodic", priors=held)
    fixed = gplvm.build_model(Y[:20], 1, kernel="periodic", priors={**held, "X": X})
    settings = {"draws": 400, "tune": 300, "chains": 2, **QUIET}
    nuts = gplvm.sample_theta(free, X, **settings)
    hmc = gplvm.sample(fixed, replicas=1, **settings)
    for name in ("amplitude", "sigma"):
        one, other = (np.log(f.posterior[name].to_numpy()).ravel() for f in (nuts, hmc))
        assert one.mean() == pytest.approx(other.mean(), abs=0.3 * one.std())
        assert one.std() == pytest.approx(other.std(), rel=0.3)


def test_minibatches(circle):
    Y, t = circle
    fit = gplvm.fit_svi(Y, 1, kernel="periodic", n_inducing=15, epochs=200, **QUIET)
    assert fit.attrs["kernel"] == "periodic"
    X = fit["approximation"]["X_mean"].to_numpy()[:, 0]
    assert max(abs(np.mean(np.exp(1j * (s * X - t)))) for s in (1.0, -1.0)) > 0.8
    one, other = (gplvm.predict(fit, np.array([[x]])) for x in (0.3, 0.3 + 2.0 * np.pi))
    np.testing.assert_allclose(one["mean"], other["mean"], rtol=1e-8)
    told = gplvm.fit_svi(gplvm.build_model(Y, 1, kernel="periodic"), epochs=2, **QUIET)
    assert told.attrs["kernel"] == "periodic"


def test_counts(circle):
    Y = np.random.default_rng(0).poisson(np.exp(0.5 * circle[0][:25, :5])).astype(float)
    model = gplvm.build_model(Y, 1, kernel="periodic + bias", likelihood="poisson")
    fit = gplvm.fit_map(model, max_iter=50, **QUIET)
    assert np.isfinite(gplvm.predict(fit, np.zeros((1, 1)))["mean"]).all()


def test_align_knows_signs_alone(circle):
    Y, _ = circle
    model = gplvm.build_model(Y[:15], 2, kernel="rbf[0] + matern32[1]")
    fit = gplvm.fit_map(model, max_iter=20, relocate=False, progressbar=False)
    X = fit.posterior["X"].to_numpy()[0, 0]
    turned = gplvm.align(fit, to=X * [-1.0, 1.0])
    assert turned["aligned"].attrs["group"] == "signs"
    np.testing.assert_allclose(turned["aligned"]["X"][0, 0], X * [-1.0, 1.0], atol=1e-9)
    exchanged = gplvm.align(fit, to=X[:, ::-1])
    rotation = np.abs(exchanged["aligned"]["rotation"].to_numpy()[0, 0])
    np.testing.assert_array_equal(rotation, np.eye(2))


def test_relevance_is_in_the_shortest_lengthscale(fit):
    table = gplvm.diagnostics.active_dimensions(fit)
    read = fit.posterior.isel(chain=0, draw=0)
    x, angle = read["X"].to_numpy().T  # of an angle the spread of the points on the circle
    spread = [x.std(), np.hypot(np.cos(angle).std(), np.sin(angle).std())]
    known = np.array(spread) / read["lengthscale"].to_numpy()
    np.testing.assert_allclose(table["relevance"].sort_index(), known)


def test_cross_validated_with_a_circular_prior(circle):
    Y, _ = circle

    def build(table):
        return gplvm.build_model(
            table, 1, kernel="periodic", priors={"X": gplvm.priors.circular(dims=0)}
        )

    scores = gplvm.diagnostics.cross_validate(Y[:24], build, n_folds=2, **QUIET)
    assert np.isfinite(scores["log_score"]).all()
