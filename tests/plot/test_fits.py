"""Plots of several fits, of the prior and of the starts: what stands on the axes, and what is refused."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from conftest import simulated
from made import fit_of, made_fit, rotations, turned
from matplotlib.collections import EllipseCollection, LineCollection, PathCollection

import pm_gplvm as gplvm
from pm_gplvm.data.fit import Fit
from pm_gplvm.diagnostics.agreement import common_frame, outside
from pm_gplvm.diagnostics.modes import group_optima

THETA = {"lengthscale": 0.5, "amplitude": 1.3, "sigma": 0.4}


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def centre():
    return np.random.default_rng(8).standard_normal((12, 2))


@pytest.fixture(scope="module")
def fits(Y, centre):
    rng = np.random.default_rng(9)
    model = gplvm.build_model(Y)
    X = centre + 0.1 * rng.standard_normal((2, 300, 12, 2))
    X[:, :, 3] += 1.0  # one row that the first fit has elsewhere
    mixed = turned(X, rotations(rng, (2, 300), 2)) + 7.0
    return {
        "MAP": fit_of(model, centre[None, None], **THETA),
        "draws": fit_of(model, mixed, **THETA),
    }


def read_all(fits):
    return {name: Fit(fit) for name, fit in fits.items()}


def of_kind(ax, kind):
    return [artist for artist in ax.collections if type(artist) is kind]


# One frame


def test_draws_come_into_the_frame_of_the_first_fit(fits, centre):
    placed = common_frame(read_all(fits))
    np.testing.assert_array_equal(placed["MAP"][0], centre / 0.5)
    mean = placed["draws"].mean(axis=0)
    others = np.arange(12) != 3
    # All but the row that is elsewhere lie within the noise, and what that row pulls them by.
    assert np.abs(mean - centre / 0.5)[others].max() < 0.5
    assert np.linalg.norm((mean - centre / 0.5)[3]) > 2.0
    assert placed["draws"].shape == (500, 12, 2)


def test_draws_alone_have_a_frame_of_their_own(fits):
    placed = common_frame({"draws": Fit(fits["draws"])}, draws=100)["draws"]
    spread = placed.std(axis=0).max()
    assert spread < 0.5  # unturned the draws would be all over the plane
    aligned = gplvm.align(fits["draws"])
    kept = common_frame({"draws": Fit(aligned)}, draws=600)["draws"]
    expected = aligned["aligned"]["X"].to_numpy().reshape(600, 12, 2) / 0.5
    np.testing.assert_allclose(kept, expected)


def test_outside_counts_what_the_ellipse_leaves_out(rng):
    draws = rng.standard_normal((4000, 2000, 2)) @ np.array([[1.0, 0.4], [0.0, 0.2]])
    at = draws[0]
    assert outside(draws[1:], at).mean() == pytest.approx(0.11, abs=0.02)
    assert outside(draws[1:], at, 0.5).mean() == pytest.approx(0.5, abs=0.04)
    still = np.repeat(at[None], 5, axis=0)
    assert not outside(still, at).any()


# plot_compare


def test_every_fit_is_a_panel_and_the_lines_lead_to_the_first(fits, Y):
    axes = gplvm.plot.compare(fits, color="label")
    assert [ax.get_title().split("\n")[0] for ax in axes] == ["MAP", "draws"]
    assert not of_kind(axes[0], EllipseCollection)
    (ellipses,) = of_kind(axes[1], EllipseCollection)
    assert len(ellipses.get_offsets()) == 12
    (lines,) = of_kind(axes[1], LineCollection)
    placed = common_frame(read_all(fits))
    for segment, mean, at in zip(
        lines.get_segments(), placed["draws"].mean(axis=0), placed["MAP"][0], strict=True
    ):
        np.testing.assert_allclose(segment, [mean, at])
    assert "dots outside 89 %" in axes[1].get_title()
    far = outside(placed["draws"], placed["MAP"][0])
    assert far[3]
    assert axes[1].get_title().endswith(f"{far.sum()} of 12 dots outside 89 %")
    np.testing.assert_array_equal(np.array(lines.get_linewidths()) > 1.0, far)
    legend = axes[1].get_legend()
    assert [t.get_text() for t in legend.get_texts()] == np.unique(Y["label"]).tolist()
    assert axes[0].get_xlim() == axes[1].get_xlim()


def test_ellipses_hold_the_share_they_promise(fits):
    (ellipses,) = of_kind(gplvm.plot.compare(fits)[1], EllipseCollection)
    draws = common_frame(read_all(fits))["draws"]
    off = draws - draws.mean(axis=0)
    angle = np.radians(ellipses.get_angles())
    along = off[..., 0] * np.cos(angle) + off[..., 1] * np.sin(angle)
    across = off[..., 1] * np.cos(angle) - off[..., 0] * np.sin(angle)
    inside = (2 * along / ellipses.get_widths()) ** 2 + (2 * across / ellipses.get_heights()) ** 2
    assert (inside < 1.0).mean() == pytest.approx(0.89, abs=0.02)


def test_numbers_have_one_scale_for_all_panels(fits):
    axes = gplvm.plot.compare(fits, color=np.linspace(0.0, 1.0, 12))
    assert axes[-1].get_legend() is None
    assert len(axes[0].figure.axes) == 3


def test_fits_of_one_draw_have_no_ellipses_but_lines(fits, Y, centre):
    other = fit_of(gplvm.build_model(Y), centre[None, None] * [1.0, 0.5], **THETA)
    axes = gplvm.plot.compare({"MAP": fits["MAP"], "other": other})
    assert not of_kind(axes[1], EllipseCollection)
    assert len(of_kind(axes[1], LineCollection)) == 1
    assert axes[1].get_title() == "other"


def test_positions_that_are_held_do_not_fail(theta, best):
    axes = gplvm.plot.compare({"MAP": best, "θ": theta}, color="label")
    assert axes[1].get_title() == "θ\n0 of 30 dots outside 89 %"


def test_one_latent_dimension(Y, rng):
    model = gplvm.build_model(Y, 1)
    X = np.linspace(-1.0, 1.0, 12)[:, None]
    fits = {
        "MAP": fit_of(model, X[None, None], **THETA),
        "draws": fit_of(model, X + 0.05 * rng.standard_normal((1, 100, 12, 1)), **THETA),
    }
    axes = gplvm.plot.compare(fits, color="label")
    assert axes[0].get_ylabel() == "row, in the order of the first fit"
    assert not of_kind(axes[0], LineCollection)
    (lines,) = of_kind(axes[1], LineCollection)
    assert len(lines.get_segments()) == 12
    assert len(of_kind(axes[1], PathCollection)) == 2  # rows, and dots
    assert axes[1].get_title() == "draws\n0 of 12 dots outside 89 %"


def test_rows_far_off_do_not_take_the_panels(Y, centre):
    far = np.repeat(centre[None, None], 2, axis=0)
    far[1, 0, 5] = [40.0, 3.0]
    model = gplvm.build_model(Y)
    fits = {name: fit_of(model, X[None], **THETA) for name, X in zip("ab", far, strict=True)}
    axes = gplvm.plot.compare(fits, "label")
    assert axes[1].get_xlim()[1] < 30.0
    assert [t.get_text() for t in axes[1].texts] == ["▸ 1 row outside"]
    assert not axes[0].texts
    axes = gplvm.plot.compare(fits, "label", limits="all")
    assert axes[1].get_xlim()[1] > 30.0


def test_given_axes_are_used(fits):
    _, axes = plt.subplots(2, 1)
    assert gplvm.plot.compare(fits, axes=axes).tolist() == axes.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"color": "stage"}, "color must name a coordinate"),
        ({"color": [1, 2]}, r"one value a row, 12, got shape \(2,\)"),
        ({"dims": (0, 2)}, "two different dimensions below 2"),
        ({"num_samples": 0}, "num_samples must be a whole number of at least 1, got 0"),
        ({"axes": []}, "axes must be one for each fit, 2, got 0"),
    ],
)
def test_wrong_arguments(fits, settings, message):
    with pytest.raises(ValueError, match=message):
        gplvm.plot.compare(fits, **settings)


def test_fits_that_cannot_stand_in_one_frame(fits, Y, best, rng):
    with pytest.raises(ValueError, match=r"plot\.compare needs fits of the same table"):
        gplvm.plot.compare({**fits, "digits": best})
    line = fit_of(gplvm.build_model(Y, 1), rng.standard_normal((1, 1, 12, 1)), **THETA)
    with pytest.raises(ValueError, match="got 2 in 'MAP' and 1 in 'line'"):
        gplvm.plot.compare({**fits, "line": line})


# plot_prior


@pytest.fixture(scope="module")
def prior(Y):
    return gplvm.sample_prior(gplvm.build_model(Y), draws=50, random_seed=3)


def test_the_table_stands_over_the_bands_of_the_prior(prior, fits):
    axes = gplvm.plot.prior(prior, fits["MAP"])
    labels = [[t.get_text() for t in ax.get_legend().get_texts()] for ax in axes]
    assert labels == [["prior", "fit"], ["prior", "table"], ["prior", "table"]]
    assert all(len(ax.collections) == 2 for ax in axes)
    entries = axes[1].lines[1].get_xdata()
    F = (
        prior["observed_data"]["Y"].to_numpy()
        - prior["constant_data"]["Y_mean"].to_numpy()[:, None]
    )
    F = F / prior["constant_data"]["Y_scale"].to_numpy()[:, None]
    assert entries[[0, -1]].tolist() == pytest.approx([F.min(), F.max()])
    assert len(axes[2].lines[1].get_xdata()) == 4


def test_without_a_fit_the_first_panel_has_the_prior_alone(prior):
    _, axes = plt.subplots(1, 3)
    found = gplvm.plot.prior(prior, axes=axes)
    assert found.tolist() == axes.tolist()
    assert len(axes[0].lines) == 1


def test_wrong_priors_and_axes(prior, best):
    with pytest.raises(ValueError, match="without prior, prior_predictive"):
        gplvm.plot.prior(best)
    with pytest.raises(ValueError, match="axes must be three, got 1"):
        gplvm.plot.prior(prior, axes=[plt.gca()])


# plot_optima


@pytest.fixture
def ends(best):
    """Three starts, two of which ended in one embedding, mirrored and enlarged."""
    rng = np.random.default_rng(2)
    Z = best["optima_positions"]["Z"].to_numpy()[0]
    other = rng.standard_normal(Z.shape)
    made = best.copy()
    table = best["optima"].to_dataset().isel(start=[0, 1, 2])
    made["optima"] = table.assign(
        objective=("start", [9.0, 7.0, 4.0]), converged=("start", [True, True, False])
    )
    made["optima_positions"] = xr.Dataset(
        {"Z": (("start", "obs", "latent"), np.stack([Z, other, 3.0 * Z[:, ::-1]]))}
    )
    return made


def test_starts_are_grouped_by_embedding(ends):
    found = group_optima(Fit(ends))
    assert found["embedding"].to_numpy().tolist() == [0, 1, 0]
    distance = found["distance"].to_numpy()
    assert distance[0, 2] < 1e-12
    assert distance[0, 1] > 0.3
    np.testing.assert_array_equal(distance, distance.T)
    assert group_optima(Fit(ends), 0.999)["embedding"].to_numpy().tolist() == [0, 0, 0]


def test_the_positions_of_a_fit_are_those_of_its_best_start(best):
    Z = best["posterior"]["X"][0, 0] / best["posterior"]["lengthscale"][0, 0]
    np.testing.assert_allclose(best["optima_positions"]["Z"][0], Z, rtol=1e-9)
    np.testing.assert_array_equal(best["optima_positions"]["start"], best["optima"]["start"])


def test_starts_are_drawn_by_embedding_and_convergence(ends):
    axes = gplvm.plot.optima(ends)
    drawn = {part.get_label(): part for part in axes[0].collections}
    heights = {name: part.get_offsets()[:, 1].tolist() for name, part in drawn.items()}
    assert heights["A"] == [0.0]
    assert heights["B"] == [2.0]
    assert [5.0] in heights.values()  # the one that did not converge
    np.testing.assert_allclose(axes[1].images[0].get_array(), group_optima(Fit(ends))["distance"])
    assert any(
        "share of variance" in label
        for label in [other.get_ylabel() for other in axes[1].figure.axes]
    )


def test_wrong_optima(ends, Y):
    with pytest.raises(ValueError, match="same must be a finite number above 0 and below 1, got 2"):
        gplvm.plot.optima(ends, same=2)
    with pytest.raises(ValueError, match="axes must be two, got 1"):
        gplvm.plot.optima(ends, axes=[plt.gca()])
    with pytest.raises(ValueError, match="Take what fit_marginal or fit_map returns"):
        gplvm.plot.optima(made_fit(Y, "rbf"))


def test_relevance_of_several_tables_has_a_bar_of_each_and_shared_dimensions_first():
    Y = simulated(24, 16)
    tables = {"rna": Y[:, :9], "protein": Y[:, 9:]}
    fit = gplvm.fit_map(gplvm.build_model(tables, 3, ard=True), random_seed=1, progressbar=False)
    # As if the first two were of one table each, and the last one of both.
    for name, unit in (("rna", [1.0, 1e4, 4.0]), ("protein", [1e4, 1.0, 4.0])):
        fit["posterior"][f"lengthscale_{name}"][:] = unit
    ax = gplvm.plot.relevance(fit)
    labels = [text.get_text() for text in ax.get_xticklabels()]
    assert labels[0] == "2"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["rna", "protein"]
    heights = np.array([patch.get_height() for patch in ax.patches]).reshape(2, 3)
    for row, name in zip(heights, tables, strict=True):
        known = gplvm.diagnostics.active_dimensions(gplvm.data.view(fit, name))["relevance"]
        np.testing.assert_allclose(row, known.loc[[int(q) for q in labels]])
    filled = [patch.get_facecolor() == patch.get_edgecolor() for patch in ax.patches]
    assert sum(filled) == 4
    plt.close(ax.figure)
