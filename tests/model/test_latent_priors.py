"""Priors of X that know something: their densities and draws, what they do to a fit, what is refused."""

import numpy as np
import pymc as pm
import pytest
from conftest import simulated
from made import fit_of, rotations
from oracles import kernel_matrix
from pymc.model.transform.conditioning import remove_value_transforms
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm, spearmanr

import pm_gplvm as gplvm
from pm_gplvm.core.mixtures import Mixture

N, Q = 14, 2
THETA = {"lengthscale": 0.8, "amplitude": 1.2, "sigma": 0.4}
TIME = np.linspace(0.0, 3.0, N)
STAGE = np.where(np.arange(N) % 3 == 0, np.nan, np.linspace(-1.0, 1.0, N))
LABELS = np.array(["b", "a", None, "b", "", "a", "a"] * 2, dtype=object)
SEQUENCES = np.repeat(["first", "second"], N // 2)

PRIORS = {
    "informative": lambda: gplvm.priors.informative(STAGE, 0.3),
    "dynamics": lambda: gplvm.priors.dynamics(TIME, sequences=SEQUENCES),
    "dynamics, held": lambda: gplvm.priors.dynamics(TIME, kernel="rbf", lengthscale=0.5),
    "class_mixture": lambda: gplvm.priors.class_mixture(
        np.where(LABELS == "a", "a", "b"), within=0.4
    ),
    "some classes": lambda: gplvm.priors.class_mixture(LABELS, within=pm.HalfNormal.dist(1.0)),
}


@pytest.fixture(scope="module")
def table():
    return simulated(N, 5, seed=2)


@pytest.fixture(scope="module")
def models(table):
    return {name: gplvm.build_model(table, priors={"X": make()}) for name, make in PRIORS.items()}


@pytest.fixture(scope="module")
def fits(models):
    quiet = {"random_seed": 1, "progressbar": False}
    return {name: gplvm.fit_map(model, **quiet) for name, model in models.items()}


def point_of(model, rng):
    """Values of all free variables, X among them."""
    plain = remove_value_transforms(model)
    return plain, {
        name: rng.standard_normal(np.shape(value))
        if name.startswith("X") and np.ndim(value)
        else 0.6
        for name, value in plain.initial_point().items()
    }


def by_scipy(name, at):
    """Return ln p(X given what is above it), written apart."""
    X = at["X"]
    if name == "informative":
        mean, sd = np.zeros((N, Q)), np.ones((N, Q))
        mean[:, 0], sd[:, 0] = np.nan_to_num(STAGE), np.where(np.isnan(STAGE), 1.0, 0.3)
        return norm.logpdf(X, mean, sd).sum()
    if name.startswith("dynamics"):
        held = name == "dynamics, held"
        kernel, unit = ("rbf", 0.5) if held else ("matern32", at["X_lengthscale"])
        K = 0.99 * kernel_matrix(kernel, TIME[:, None], lengthscale=unit)
        if not held:
            K = K * (SEQUENCES[:, None] == SEQUENCES[None])
        return multivariate_normal(np.zeros(N), K + 0.01 * np.eye(N)).logpdf(X.T).sum()
    centre = at["X_centre"]  # of "a", then "b"
    if name == "class_mixture":
        own = centre[(LABELS != "a").astype(int)]
        return norm.logpdf(X, own, 0.4).sum()
    share = np.array([6.0, 4.0]) / 10.0
    each = norm.logpdf(X[:, None], centre, at["X_within"]).sum(axis=-1)
    mixed = logsumexp(each + np.log(share), axis=1)
    known = {"a": each[:, 0], "b": each[:, 1]}
    return sum(known[k][i] if k in known else mixed[i] for i, k in enumerate(LABELS))


@pytest.mark.parametrize("name", PRIORS)
def test_the_density_of_X_is_scipys(models, name, rng, mode):
    plain, at = point_of(models[name], rng)
    found = plain.compile_logp(vars=[plain["X"]], mode=mode)(at)
    assert found == pytest.approx(by_scipy(name, at), rel=1e-9)


@pytest.mark.parametrize("name", PRIORS)
def test_a_rows_prior_is_the_joint_ones(models, name, rng):
    """What the sampler weighs places by, against the density of all of X."""
    from pm_gplvm.model.density import compile_row_prior

    plain, at = point_of(models[name], rng)
    places = rng.standard_normal((4, Q))
    for n in (0, 1, 2, 4):
        values = [np.asarray(at[value.name], dtype=float)[None] for value in plain.value_vars]
        found = compile_row_prior(plain)(n, places[None], values)[0]
        expected = []
        for place in places:
            X = at["X"].copy()
            X[n] = place
            expected.append(by_scipy(name, {**at, "X": X}))
        np.testing.assert_allclose(np.diff(found), np.diff(expected), rtol=1e-8, atol=1e-8)


def test_draws_have_the_moments(models):
    spread = {
        name: gplvm.sample_prior(models[name], draws=2000, random_seed=1)["prior"]["X"].to_numpy()[
            0
        ]
        for name in ("dynamics, held", "some classes", "informative")
    }
    X = spread["dynamics, held"]
    K = 0.99 * kernel_matrix("rbf", TIME[:, None], lengthscale=0.5) + 0.01 * np.eye(N)
    np.testing.assert_allclose(np.einsum("snq,smq->nm", X, X) / (2000 * Q), K, atol=0.1)
    # 1 of the centres, and E within² = 1 of a half-normal
    assert spread["some classes"].var() == pytest.approx(2.0, rel=0.1)
    known = ~np.isnan(STAGE)
    np.testing.assert_allclose(
        spread["informative"].mean(axis=0)[known, 0], STAGE[known], atol=0.05
    )
    np.testing.assert_allclose(spread["informative"].std(axis=0)[known, 0], 0.3, rtol=0.1)


# with every function


@pytest.mark.parametrize("name", PRIORS)
def test_the_mode_is_found_and_described(fits, name):
    assert fits[name].attrs["converged"] == 1
    assert fits[name].attrs["kernel"] == "rbf"


@pytest.mark.parametrize("name", PRIORS)
def test_theta_and_what_the_prior_has_are_drawn(models, fits, name):
    with pytest.warns(RuntimeWarning, match="has not converged"):
        drawn = gplvm.sample_theta(
            models[name], fits[name], draws=20, tune=20, chains=1, random_seed=1, progressbar=False
        )
    own = {v.name for v in models[name].free_RVs} - {"X"}
    assert set(drawn.posterior.data_vars) == own


@pytest.mark.filterwarnings("ignore:sample:RuntimeWarning")
@pytest.mark.parametrize("name", PRIORS)
def test_the_sampler_moves_rows_under_it(models, fits, name):
    settings = {"tune": 10, "chains": 1, "replicas": 1, "random_seed": 1, "progressbar": False}
    full = gplvm.sample(models[name], start=fits[name], draws=5, **settings)
    assert float(full.sample_stats["moved"].mean()) > 0.0
    assert np.isfinite(full.sample_stats["lp"]).all()


@pytest.mark.parametrize("name", PRIORS)
def test_it_predicts_and_places_new_rows(fits, name, table):
    fit = fits[name]
    assert np.isfinite(gplvm.predict(fit, np.zeros((1, Q)))["mean"]).all()
    found = gplvm.embed(fit, table[:2], random_seed=1)
    at = fit.posterior["X"].to_numpy()[0, 0, :2]
    # The same row again lies where it lay, if nothing else is known of it.
    near = np.abs(found["modes"]["X"].to_numpy() - at[:, None]).max(axis=-1)
    assert (np.nanmin(near, axis=1) < 0.5).all()


def test_an_informative_prior_recovers_an_order():
    """A course that nearly closes: no embedding in a line finds its beginning without being told."""
    rng = np.random.default_rng(4)
    t = rng.uniform(0.0, 1.0, 60)
    phase, slope = rng.uniform(0.0, 2.0 * np.pi, 12), rng.normal(size=12)
    Y = np.sin(2.0 * np.pi * t[:, None] + phase) + 0.2 * slope * t[:, None]
    Y += 0.1 * rng.standard_normal(Y.shape)
    stage = np.digitize(t, [0.25, 0.5, 0.75])  # all that is known: one of four stages
    prior = gplvm.priors.informative((stage - 1.5) / 1.5, 0.3)
    order = {}
    for name, priors in (("told", {"X": prior}), ("not told", None)):
        model = gplvm.build_model(Y, 1, priors=priors)
        fit = gplvm.fit_map(model, random_seed=1, progressbar=False)
        order[name] = spearmanr(fit.posterior["X"].to_numpy().ravel(), t).statistic
    assert order["told"] > 0.98  # and in the right direction
    assert order["told"] > abs(order["not told"]) + 0.05


def test_dynamics_smooth_what_is_noisy():
    rng = np.random.default_rng(5)
    t = np.arange(50.0)
    truth = np.column_stack([np.sin(t / 8.0), np.cos(t / 5.0)])
    Y = truth @ rng.normal(size=(2, 6)) + 0.8 * rng.standard_normal((50, 6))
    error = {}
    for name, priors in (("dynamics", {"X": gplvm.priors.dynamics(t)}), ("none", {})):
        model = gplvm.build_model(Y, 2, kernel="linear", priors={"sigma": 0.5, **priors})
        fit = gplvm.fit_map(model, random_seed=1, progressbar=False)
        X = fit.posterior["X"].to_numpy()[0, 0]
        design = np.column_stack([np.ones(50), X])
        residual = truth - design @ np.linalg.lstsq(design, truth, rcond=None)[0]
        error[name] = np.sqrt((residual**2).mean())
    assert error["dynamics"] < 0.7 * error["none"]


def test_starts_are_turned_towards_what_is_known():
    table = simulated(30, 6)
    stage = np.linspace(-1.0, 1.0, 30)
    from pm_gplvm.model.starts import start_values

    for sign in (1.0, -1.0):
        model = gplvm.build_model(table, priors={"X": gplvm.priors.informative(sign * stage, 0.2)})
        X = start_values(model, "pca", np.random.default_rng(1))["X"]
        assert np.corrcoef(X[:, 0], sign * stage)[0, 1] > 0.9
        assert X[:, 1].std() == pytest.approx(1.0)
        assert abs(np.corrcoef(X.T)[0, 1]) < 0.1


@pytest.mark.parametrize("place", [-2.0, 2.0])
def test_a_start_has_width_where_all_that_is_known_is_one_place(place):
    """Least squares on roots alone would put all rows at the one place."""
    from pm_gplvm.model.starts import turned_towards

    X = np.random.default_rng(1).standard_normal((40, 2))
    X[:6, 0] += 1.5
    mean, sd = np.zeros((40, 2)), np.ones((40, 2))
    mean[:6, 0], sd[:6, 0] = place, 0.2
    turned = turned_towards(X, mean, sd, np.random.default_rng(1))[:, 0]
    assert turned[6:].std() == pytest.approx(X[6:, 0].std())
    assert place * (turned[:6].mean() - turned[6:].mean()) > 0.0


def test_a_root_alone_leads_to_a_fit_in_scale():
    table = simulated(60, 12)
    told = np.where(np.arange(60) < 4, -2.0, np.nan)
    model = gplvm.build_model(table, 2, priors={"X": gplvm.priors.informative(told, 0.2)})
    fit = gplvm.fit_variational(model, n_inducing=12, random_seed=1, progressbar=False)
    assert np.abs(fit["posterior"]["X"].to_numpy()).max() < 8.0


# new rows under classes


def test_a_mixture_has_the_density_and_slope_of_its_parts(rng):
    mixture = Mixture(np.array([0.2, 0.8]), rng.standard_normal((2, Q)), 0.6)
    x = rng.standard_normal((5, 3, Q))
    parts = [multivariate_normal(c, 0.36 * np.eye(Q)).pdf(x) for c in mixture.centre]
    np.testing.assert_allclose(mixture.log_density(x), np.log(0.2 * parts[0] + 0.8 * parts[1]))
    for q in range(Q):
        step = np.zeros(Q)
        step[q] = 1e-6
        change = mixture.log_density(x + step) - mixture.log_density(x - step)
        np.testing.assert_allclose(mixture.slope(x)[..., q], change / 2e-6, atol=1e-6)
    drawn = mixture.centre[rng.choice(2, 100_000, p=mixture.share)]
    drawn = drawn + 0.6 * rng.standard_normal(drawn.shape)
    np.testing.assert_allclose(mixture.mean, drawn.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(mixture.spread, drawn.std(axis=0), atol=0.02)


def test_a_new_row_has_the_mixture_of_its_classes_in_any_frame(models, table, rng):
    X = rng.standard_normal((1, 3, N, Q))
    W, centre = rotations(rng, (1, 3), Q), rng.standard_normal((1, 3, 2, Q))
    scores = []
    for turn in (np.broadcast_to(np.eye(Q), W.shape), W):
        fit = fit_of(
            models["class_mixture"],
            np.einsum("cdlf,cdnf->cdnl", turn, X),
            X_centre=np.einsum("cdlf,cdkf->cdkl", turn, centre),
            **THETA,
        )
        fit = gplvm.align(fit, to=X[0, 0])
        score = gplvm.log_predictive(fit, table[:3], draws=20_000, random_seed=1)
        scores.append(score["log_score"].to_numpy())
    np.testing.assert_allclose(scores[0], scores[1], atol=0.1)
    by_normal = gplvm.log_predictive(fit, table[:3], prior=(0.0, 1.0), random_seed=1)["log_score"]
    assert (np.abs(by_normal - scores[0]) > 0.2).any()  # it is another prior


def test_a_prior_of_ones_own_is_said_not_to_be_known(table):
    model = gplvm.build_model(table, priors={"X": pm.Normal.dist(5.0, 1.0)})
    fit = fit_of(model, 5.0 + np.random.default_rng(1).standard_normal((1, 1, N, Q)), **THETA)
    with pytest.warns(RuntimeWarning, match=r"N\(0, 1\) here, while X had Normal\(5\.0, 1\.0\)"):
        gplvm.embed(fit, table[:1], random_seed=1)
    gplvm.embed(fit, table[:1], prior=(5.0, 1.0), random_seed=1)


def test_a_saved_fit_goes_on(fits, table, tmp_path):
    gplvm.save(fits["some classes"], tmp_path / "fit.nc")
    loaded = gplvm.load(tmp_path / "fit.nc")
    here, there = (
        gplvm.embed(fit, table[:2], random_seed=1)["posterior"]["X"]
        for fit in (fits["some classes"], loaded)
    )
    np.testing.assert_array_equal(here, there)
    model = gplvm.model.rebuild(loaded, priors={"X": PRIORS["some classes"]()})
    assert [v.name for v in model.free_RVs][:3] == ["X_within", "X_centre", "X"]


# what is refused


def test_neighbourhoods_want_rows_alike(models):
    for name in ("dynamics", "some classes"):
        with pytest.raises(
            ValueError, match=r"model must have a prior of X that is .* Use fit_map"
        ):
            gplvm.fit_stochastic(models[name], progressbar=False)


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda: gplvm.priors.informative([np.nan] * N, 1.0), "known of some rows"),
        (lambda: gplvm.priors.informative([[[0.0]]], 1.0), r"shape \(N,\) or \(N, Q\)"),
        (lambda: gplvm.priors.informative([0.0] * N, 0.0), "sd must be positive"),
        (lambda: gplvm.priors.dynamics([0.0, np.nan]), "t must be one finite number a row"),
        (lambda: gplvm.priors.dynamics([1.0, 1.0]), "not all the same"),
        (lambda: gplvm.priors.dynamics(TIME, kernel="linear"), "kernel must be one of rbf"),
        (
            lambda: gplvm.priors.dynamics(TIME, own=0.0),
            "own must be a finite number above 0 and below 1",
        ),
        (lambda: gplvm.priors.dynamics(TIME, sequences=["a"]), "one label a row"),
        (lambda: gplvm.priors.class_mixture([None, "", np.nan]), "labels must have a known class"),
    ],
)
def test_arguments_out_of_range(make, wrong):
    with pytest.raises(ValueError, match=wrong):
        make()


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (
            lambda: gplvm.priors.informative([0.0, 1.0], 1.0),
            r"mean must have one entry a row, 14, got 2",
        ),
        (lambda: gplvm.priors.informative(np.zeros((N, 3)), 1.0), r"\(14, 2\), got \(14, 3\)"),
        (lambda: gplvm.priors.dynamics([0.0, 1.0]), "t must have one entry a row, 14, got 2"),
        (
            lambda: gplvm.priors.class_mixture(["a", "b"]),
            "labels must have one entry a row, 14, got 2",
        ),
    ],
)
def test_another_number_of_rows(table, make, wrong):
    with pytest.raises(ValueError, match=wrong):
        gplvm.build_model(table, priors={"X": make()})
