"""fit_marginal: its term of the volume by other routes, what it finds, and what it refuses."""

from functools import partial

import numpy as np
import pymc as pm
import pytest
from conftest import simulated
from made import fit_of
from oracles import kernel_matrix
from scipy import stats
from sklearn.decomposition import PCA

import pm_gplvm as gplvm
from pm_gplvm.fitting.map import equal_rows
from pm_gplvm.model.density import compile_log_density, optimiser_coordinates
from pm_gplvm.model.spec import ModelSpec
from pm_gplvm.model.volume import log_volume

QUIET = {"progressbar": False, "random_seed": 1}
THETA = {"lengthscale": 1.3, "amplitude": 0.8, "sigma": 0.4}


def linear_table(n, d, seed=0, noise=0.7):
    """Two factors and noise, and the factors."""
    rng = np.random.default_rng(seed)
    T = rng.normal(size=(n, 2))
    return T @ rng.normal(size=(2, d)) + noise * rng.normal(size=(n, d)), T


@pytest.fixture(scope="module")
def curved():
    """30 x 10, drawn from the model."""
    return simulated(30, 10, noise=0.3)


def sines(n=40, d=12, seed=0):
    rng = np.random.default_rng(seed)
    B = rng.normal(size=(2, d))
    return np.sin(rng.normal(size=(n, 2)) @ B) + 0.3 * rng.normal(size=(n, d))


def r2(X, T):
    """Share of the true factors that a linear regression on X explains."""
    design = np.column_stack([X, np.ones(len(X))])
    rest = T - design @ np.linalg.lstsq(design, T, rcond=None)[0]
    return 1.0 - (rest**2).sum() / ((T - T.mean(axis=0)) ** 2).sum()


def value_of(fit, name):
    return fit["posterior"][name].to_numpy()[0, 0]


# The term


def volume(model, **values):
    """The term at given values of the free variables, by PyMC's own names."""
    replaced = {model[name]: np.asarray(v, dtype=float) for name, v in values.items()}
    (term,) = model.replace_rvs_by_values([log_volume(model)])
    point = model.initial_point()
    for rv in model.free_RVs:
        value = model.rvs_to_values[rv]
        if rv in replaced:
            transform = model.rvs_to_transforms[rv]
            new = replaced[rv]
            point[value.name] = (
                new if transform is None else transform.forward(new, *rv.owner.inputs).eval()
            )
    given = {v: point[v.name] for v in model.value_vars}
    return float(term.eval(given, on_unused_input="ignore", mode=gplvm.model.compile_mode()))


CURVATURE = {"rbf": 1.0, "matern32": 3.0, "matern52": 5.0 / 3.0, "cauchy": 1.0}


@pytest.mark.parametrize("kernel", CURVATURE)
def test_curvature_of_each_kernel_at_0(kernel):
    """-κ''(0), by differences of the kernel matrix itself."""
    step = 1e-4
    near, at = (kernel_matrix(kernel, np.array([[0.0], [d]]))[0, 1] for d in (step, 0.0))
    assert 2.0 * (at - near) / step**2 == pytest.approx(CURVATURE[kernel], rel=1e-3)


@pytest.mark.parametrize("ard", [False, True], ids=["shared", "ard"])
@pytest.mark.parametrize("kernel", CURVATURE)
def test_term_of_a_complete_table(kernel, ard, Y):
    model = gplvm.build_model(Y, kernel=kernel, ard=ard)
    lengthscale = np.array([1.3, 0.6]) if ard else 1.3
    found = volume(model, **{**THETA, "lengthscale": lengthscale})
    floor = float(model["Y_resolution"].get_value())
    h = 4 * CURVATURE[kernel] * 0.8**2 / np.square(lengthscale) / (0.4**2 + floor**2)
    each = np.log(2.0 * np.pi) - np.log(1.0 + np.broadcast_to(h, 2))
    assert found == pytest.approx(0.5 * 12 * each.sum(), rel=1e-12)


def test_term_of_a_table_with_holes(Y):
    holes = Y.copy()
    holes[0, :3] = np.nan
    holes[5, 1] = np.nan
    model = gplvm.build_model(holes, missing="mask", resolution=0)
    seen = np.full(12, 4)
    seen[[0, 5]] = 1, 3
    h = seen * 0.8**2 / 1.3**2 / 0.4**2
    expected = 0.5 * 2 * (np.log(2.0 * np.pi) - np.log1p(h)).sum()
    assert volume(model, **THETA) == pytest.approx(expected, rel=1e-12)


def test_term_under_what_is_known_of_single_rows(Y):
    mean = np.where(np.arange(12) < 4, 0.5, np.nan)
    model = gplvm.build_model(Y, priors={"X": gplvm.priors.informative(mean, 0.2)}, resolution=0)
    precision = np.ones((12, 2))
    precision[:4, 0] = 1.0 / 0.2**2
    h = 4 * 0.8**2 / 1.3**2 / 0.4**2
    expected = 0.5 * (np.log(2.0 * np.pi) - np.log(precision + h)).sum()
    assert volume(model, **THETA) == pytest.approx(expected, rel=1e-12)


def test_term_under_classes(Y):
    labels = np.where(np.arange(12) < 3, "", Y["label"])
    model = gplvm.build_model(Y, priors={"X": gplvm.priors.class_mixture(labels)}, resolution=0)
    h = 4 * 0.8**2 / 1.3**2 / 0.4**2
    expected = 0.5 * 24 * (np.log(2.0 * np.pi) - np.log(1.0 / 0.5**2 + h))
    assert volume(model, **THETA) == pytest.approx(expected, rel=1e-12)


def test_term_under_dynamics(Y):
    """By the precision of the prior itself, where the code works with its covariance."""
    model = gplvm.build_model(Y, priors={"X": gplvm.priors.dynamics(np.arange(12))}, resolution=0)
    t = np.arange(12.0)[:, None]
    C = kernel_matrix("matern32", t / 3.0, amplitude=np.sqrt(0.99), sigma=0.1)
    h = 4 * 0.8**2 / 1.3**2 / 0.4**2
    logdet = np.linalg.slogdet(np.linalg.inv(C) + h * np.eye(12))[1]
    expected = 0.5 * 2 * (12 * np.log(2.0 * np.pi) - logdet)
    assert volume(model, X_lengthscale=3.0, **THETA) == pytest.approx(expected, rel=1e-9)


def test_term_under_back_constraints(Y):
    model = gplvm.build_model(Y, priors={"X": gplvm.priors.back_constraint()}, resolution=0)

    B = ModelSpec.of(model).basis
    h = 4 * 0.8**2 / 1.3**2 / 0.4**2
    n = B.shape[1]
    logdet = np.linalg.slogdet(np.eye(n) + h * B.T @ B)[1]
    expected = 0.5 * 2 * (n * np.log(2.0 * np.pi) - logdet)
    assert volume(model, **THETA) == pytest.approx(expected, rel=1e-9)


def test_linear_kernel_has_slopes_of_variance_1(Y):
    model = gplvm.build_model(Y, kernel="linear", resolution=0)
    expected = 0.5 * 24 * (np.log(2.0 * np.pi) - np.log1p(4 / 0.4**2))
    assert volume(model, sigma=0.4) == pytest.approx(expected, rel=1e-12)


def test_gradient_of_the_objective(Y, rng):
    """With the term, in the optimiser's coordinates, by central differences."""
    for kernel, prior in (
        ("rbf", {}),
        ("matern32", {"X": gplvm.priors.dynamics(np.arange(12))}),
        ("matern52 + bias", {"X": gplvm.priors.back_constraint()}),
    ):
        model = gplvm.build_model(Y, kernel=kernel, priors=prior)
        landscape = compile_log_density(model, volume=True, coordinates=optimiser_coordinates)
        at = 0.3 * rng.normal(size=landscape.size)
        gradient = landscape(at)[1]
        for _ in range(3):
            d = rng.normal(size=len(at))
            up, down = landscape(at + 1e-5 * d)[0], landscape(at - 1e-5 * d)[0]
            assert gradient @ d == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-4)


# Against Laplace's approximation with the true curvature


def exact_half_logdet(Y, fit):
    """½ ln|I + H_X| at a fit, H by differences of the compiled gradient, less ½ ln of turning."""
    model = gplvm.build_model(Y)
    point = {n: value_of(fit, n) for n in ("X", "lengthscale", "amplitude", "sigma")}
    objective = gplvm.model.compile_objective(model)
    n, shape = point["X"].size, point["X"].shape
    H = np.empty((n, n))
    for i in range(n):
        step = np.zeros(n)
        step[i] = 1e-4
        up, down = (
            objective({**point, "X": point["X"] + s * step.reshape(shape)})[1]["X"].ravel()
            for s in (1.0, -1.0)
        )
        H[i] = (up - down) / 2e-4
    values = np.linalg.eigvalsh(-0.5 * (H + H.T))
    # One direction, of the rotation, has the curvature 0: that of the prior alone stands for it.
    return 0.5 * np.log(np.maximum(values, 1.0)).sum()


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        (partial(linear_table, 40, 8), 0.5, 1.1),  # known better than the prior expects
        (lambda: (sines(), None), 0.9, 1.35),  # less well
    ],
    ids=["linear", "sines"],
)
def test_expected_curvature_against_the_true_one(table, low, high):
    """What the documentation says of the approximation: off by up to half."""
    Y, _ = table()
    fit = gplvm.fit_marginal(gplvm.build_model(Y), **QUIET)
    lengthscale, amplitude, sigma = (
        value_of(fit, n) for n in ("lengthscale", "amplitude", "sigma")
    )
    h = Y.shape[1] * (amplitude / lengthscale) ** 2 / (sigma**2 + 0.01**2)
    expected = 0.5 * Y.shape[0] * 2 * np.log1p(h)
    assert low < expected / exact_half_logdet(Y, fit) < high


# What it finds


def test_estimate_is_a_mode_of_X_given_theta_and_of_theta(curved):
    fit = gplvm.fit_marginal(gplvm.build_model(curved), tol=1e-8, **QUIET)
    model = gplvm.build_model(curved)
    point = {n: value_of(fit, n) for n in ("X", "lengthscale", "amplitude", "sigma")}
    gradient = gplvm.model.compile_objective(model)(point)[1]
    assert np.abs(gradient["X"]).max() < 1e-2  # the term does not depend on X
    density = compile_log_density(model, volume=True)
    values = {model.rvs_to_values[model[n]].name: np.log(v) for n, v in point.items() if n != "X"}
    at = density.pack({"X": point["X"], **values})
    slopes = density.unpack(density(at)[1])
    assert all(np.abs(s).max() < 1e-2 for s in slopes.values())
    stats_ = fit["sample_stats"]
    assert float(stats_["log_marginal"][0, 0]) == pytest.approx(density(at)[0], rel=1e-10)
    joint = gplvm.model.compile_objective(model)(point)[0]
    assert float(stats_["lp"][0, 0]) == pytest.approx(joint, rel=1e-10)
    likelihood = gplvm.model.compile_objective(model, prior=False)(point)[0]
    assert float(stats_["log_likelihood"][0, 0]) == pytest.approx(likelihood, rel=1e-10)
    assert (fit.attrs["method"], fit.attrs["converged"]) == ("marginal", 1)


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_linear_tables_are_understood_as_well_as_by_pca(seed):
    Y, T = linear_table(80, 8, seed)
    joint = gplvm.fit_map(gplvm.build_model(Y), **QUIET)
    fit = gplvm.fit_marginal(gplvm.build_model(Y), **QUIET)
    pca = PCA(2).fit_transform(Y)
    assert r2(value_of(fit, "X"), T) > r2(pca, T) - 0.01
    assert r2(value_of(fit, "X"), T) > r2(value_of(joint, "X"), T)
    # The noise in units of the scale is .7 over the root mean square of the table.
    scale = float(fit["constant_data"]["Y_scale"][0])
    assert value_of(fit, "sigma") * scale == pytest.approx(0.7, rel=0.1)
    assert value_of(joint, "sigma") * scale < 0.62
    assert 0.5 < value_of(fit, "X").std() < 1.2


def test_linear_kernel_beside_probabilistic_pca():
    """PPCA integrates X out too, with the weights at their maximum: the noise must agree."""
    for seed in range(3):
        Y, _ = linear_table(80, 8, seed)
        fit = gplvm.fit_marginal(gplvm.build_model(Y, kernel="linear"), **QUIET)
        noise = np.hypot(value_of(fit, "sigma"), 0.01) * float(fit["constant_data"]["Y_scale"][0])
        assert noise == pytest.approx(np.sqrt(PCA(2).fit(Y).noise_variance_), rel=0.05)


def test_log_marginal_prefers_two_dimensions_on_two_factors():
    for seed in (0, 2, 3):
        Y, _ = linear_table(80, 8, seed)
        for kernel in ("rbf", "linear"):
            found = {
                q: gplvm.fit_marginal(gplvm.build_model(Y, q, kernel=kernel), **QUIET)
                for q in (1, 2, 3)
            }
            found = {q: float(f["sample_stats"]["log_marginal"][0, 0]) for q, f in found.items()}
            assert max(found, key=found.get) == 2


def test_cross_validation_prefers_two_dimensions_on_two_factors():
    Y, _ = linear_table(60, 8, 1)
    score = {
        q: float(
            gplvm.diagnostics.cross_validate(
                Y,
                partial(gplvm.build_model, latent_dim=q),
                n_folds=3,
                random_seed=1,
                progressbar=False,
            )["log_score"].sum()
        )
        for q in (1, 2, 3)
    }
    assert max(score, key=score.get) == 2


def test_noise_is_said_to_be_noise():
    Y = np.round(np.random.default_rng(0).normal(size=(40, 8)), 2)
    with pytest.warns(RuntimeWarning, match=r"no structure found at this latent_dim = 2"):
        fit = gplvm.fit_marginal(gplvm.build_model(Y), **QUIET)
    assert fit.attrs["converged"] == 1
    scale = float(fit["constant_data"]["Y_scale"][0])
    assert value_of(fit, "sigma") * scale == pytest.approx(1.0, rel=0.05)


def test_every_start_has_its_form_in_the_table(curved):
    fit = gplvm.fit_marginal(gplvm.build_model(curved), n_restarts=1, **QUIET)
    optima = fit["optima"]
    assert set(optima["size"].to_numpy()) == {0.3, 0.5, 1.0, 2.0}
    assert set(optima["spread"].to_numpy()) == {"own", "whitened", "joint mode"}
    assert optima.sizes["start"] == 6
    again = gplvm.fit_marginal(gplvm.build_model(curved), start=value_of(fit, "X"), **QUIET)
    given = again["optima"]
    assert given["spread"].to_numpy().tolist() == ["given"]


def test_little_noise_is_found_from_the_joint_mode():
    """Twenty rows of a curved sheet: the other starts take most of it for noise."""
    Y = simulated(20, 8, noise=0.1)
    fit = gplvm.fit_marginal(gplvm.build_model(Y), **QUIET)
    assert fit["optima"]["spread"].to_numpy()[0] == "joint mode"
    assert value_of(fit, "sigma") * float(fit["constant_data"]["Y_scale"][0]) < 0.5
    others = fit["optima"]["spread"].to_numpy() != "joint mode"
    assert (
        fit["optima"]["objective"].to_numpy()[others] < float(fit["optima"]["objective"][0])
    ).all()


# What it refuses


def test_what_cannot_be_integrated_out(Y):
    with pm.Model() as own:
        X = pm.Normal("X", shape=(12, 2))
        K = gplvm.covariance("rbf", 2.0 * X, sigma=0.3)
        gplvm.GPColumns("Y", K, observed=Y.to_numpy().T)
    student = {"X": lambda name, dims: pm.StudentT(name, nu=4, dims=dims)}
    held = {"X": np.random.default_rng(0).normal(size=(12, 2))}
    for model, why in (
        (own, "got a covariance of another kind"),
        (gplvm.build_model(Y, priors=student), "knows Normal, informative, dynamics"),
        (gplvm.build_model(Y, priors=held), "X is held fixed"),
    ):
        with pytest.raises(ValueError, match=f"fit_marginal cannot .*{why}.*Take fit_map"):
            gplvm.fit_marginal(model, progressbar=False)


# The floor of the noise, and rows that are there twice


def test_lawrences_objective_has_no_floor(Y):
    """resolution=0 is the model as printed; a floor is a number more on the diagonal."""
    point = {"X": np.random.default_rng(0).normal(size=(12, 2)), **THETA}
    plain = gplvm.model.compile_objective(gplvm.build_model(Y, resolution=0), prior=False)
    floor = gplvm.model.compile_objective(gplvm.build_model(Y, resolution=0.3), prior=False)
    same = {**point, "sigma": np.hypot(0.4, 0.3)}
    assert floor(point)[0] == pytest.approx(plain(same)[0], rel=1e-12)
    scaled = (Y - Y.mean("obs")).to_numpy() / float(np.sqrt(((Y - Y.mean("obs")) ** 2).mean()))
    scale = float(np.sqrt(((Y - Y.mean("obs")) ** 2).mean()))
    K = kernel_matrix("rbf", point["X"] / 1.3, amplitude=0.8, sigma=0.4)
    expected = stats.multivariate_normal(cov=K).logpdf(scaled.T).sum() - 48 * np.log(scale)
    assert plain(point)[0] == pytest.approx(expected, rel=1e-12)


def answers(seed=1):
    rng = np.random.default_rng(seed)
    T, B = rng.normal(size=(120, 2)), np.random.default_rng(99).normal(size=(2, 6))
    return np.clip(np.round(3 + 0.7 * T @ B + 0.4 * rng.normal(size=(120, 6))), 1, 5)


def test_answers_have_the_noise_of_their_grid():
    Y = answers()
    model = gplvm.build_model(Y)
    floor = float(model["Y_resolution"].get_value())
    scale = float(model["Y_scale"].get_value()[0])
    assert floor == pytest.approx(np.hypot(1 / np.sqrt(12) / scale, 0.01), rel=1e-12)
    fit = gplvm.fit_marginal(model, **QUIET)
    assert np.hypot(value_of(fit, "sigma"), floor) == pytest.approx(0.48, abs=0.03)
    with pytest.warns(RuntimeWarning, match=r"the noise ended at its floor, resolution = 0.31"):
        gplvm.fit_map(model, **QUIET)


def test_floor_is_in_every_number(Y):
    """Two fits with the same total noise, one with a floor, say the same."""
    X = np.random.default_rng(0).normal(size=(1, 1, 12, 2))
    theta = {"lengthscale": 1.3, "amplitude": 0.8}
    fits = [
        fit_of(gplvm.build_model(Y, resolution=0), X, sigma=0.5, **theta),
        fit_of(gplvm.build_model(Y, resolution=0.3), X, sigma=0.4, **theta),
    ]
    at = np.array([[0.1, -0.3], [2.0, 2.0]])
    new = Y.to_numpy()[:3] + 0.1
    for what in (
        lambda f: gplvm.predict(f, at, noise=True)["sd"],
        lambda f: gplvm.predict(f, at)["mean"],
        lambda f: gplvm.diagnostics.leave_one_out(f)["log_score"],
        lambda f: gplvm.reconstruct(f)["mean"],
        lambda f: gplvm.embed(f, new, draws=100, **QUIET)["posterior"]["X"],
        lambda f: gplvm.log_predictive(f, new, draws=100, **QUIET)["log_score"],
    ):
        first, second = (what(fit).to_numpy() for fit in fits)
        np.testing.assert_allclose(second, first, rtol=1e-10)


def test_rows_entered_twice_are_fitted_once():
    Y = sines()
    twice = np.concatenate([Y, Y[:15]])
    with pytest.warns(RuntimeWarning, match=r"Y has 15 rows that are exact copies of others"):
        fit = gplvm.fit_marginal(gplvm.build_model(twice), **QUIET)
    X = value_of(fit, "X")
    np.testing.assert_array_equal(X[40:], X[:15])
    assert value_of(fit, "sigma") > 0.3
    model = gplvm.build_model(twice)
    point = {n: value_of(fit, n) for n in ("X", "lengthscale", "amplitude", "sigma")}
    joint = gplvm.model.compile_objective(model)(point)[0]
    assert float(fit["sample_stats"]["lp"][0, 0]) == pytest.approx(joint, rel=1e-10)


def test_copies_are_found_off_a_grid(rng):
    values = rng.normal(size=(4, 2))[[0, 1, 1, 2, 3, 0]]
    assert equal_rows(values).tolist() == [0, 1, 1, 3, 4, 0]


def test_equal_rows_of_answers_are_no_copies():
    Y = answers()[:, :3]
    assert len(np.unique(Y, axis=0)) < 80
    X = value_of(gplvm.fit_marginal(gplvm.build_model(Y), **QUIET), "X")
    assert np.isfinite(X).all()  # and no warning
