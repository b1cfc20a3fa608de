"""Priors of X by batches of rows: the divergence and its gradient are those of fit_variational's model."""

import numpy as np
import pymc as pm
import pytensor
import pytest
from conftest import simulated

import pm_gplvm as gplvm
from pm_gplvm.data.rows import RowTable
from pm_gplvm.model.positions import positions_of

N, Q = 12, 2
LABELS = np.array(list("aabbccabcabc"), dtype=object)
SOME = np.array([*LABELS[:8], None, None, "", None], dtype=object)
PRIORS = {
    "none": None,
    "informative": gplvm.priors.informative(np.linspace(-1.0, 1.0, N), 0.3),
    "classes": gplvm.priors.class_mixture(LABELS, within=0.4),
    "spread": gplvm.priors.class_mixture(LABELS, within=pm.HalfNormal.dist(1.0)),
    "some classes": gplvm.priors.class_mixture(SOME, within=pm.Gamma.dist(3.0, 4.0)),
}


@pytest.mark.parametrize("kind", PRIORS)
def test_divergence_and_gradient_are_those_of_fit_variational(kind, rng):
    """At one q, with ln p of what the prior has of its own: by the graph of build_variational."""
    Y, prior = simulated(N, 5, seed=3), PRIORS[kind]
    model = gplvm.build_model(Y, Q, priors={} if prior is None else {"X": prior})
    bound = gplvm.model.build_variational(model, n_inducing=4)
    values = {
        "X_mean": rng.standard_normal((N, Q)),
        "X_sd": rng.uniform(0.2, 0.9, (N, Q)),
        "X_centre": rng.standard_normal((3, Q)),
        "X_within": np.array(0.6),
    }
    own = [bound[n] for n in ("X_centre", "X_within") if bound.named_vars.get(n) in bound.free_RVs]
    log_prior = sum(pm.logp(rv, rv).sum() for rv in own)
    of = [bound["X_mean"], bound["X_sd"], *own]
    value = bound["minus_KL"] + log_prior
    graph = pytensor.function(of, [value, *pytensor.grad(value, of)])
    expected, *slopes = graph(*(values[v.name] for v in of))

    positions = positions_of(prior, RowTable.of(Y), Q)
    parameters = positions.start(values["X_mean"])
    assert len(parameters) == len(own)
    if "centre" in parameters:
        parameters["centre"] = values["X_centre"]
    if "log_within" in parameters:
        parameters["log_within"] = np.log(values["X_within"])
    found, mean, sd = 0.0, np.empty((N, Q)), np.empty((N, Q))
    gradient = dict.fromkeys(parameters, 0.0)
    for rows in (np.arange(0, 5), np.arange(5, N)):  # batches add up
        q = values["X_mean"][rows], values["X_sd"][rows]
        of_rows = positions.of(rows, parameters)
        found -= of_rows.divergence(*q).sum()
        mean[rows] = (of_rows.towards(q[0]) - q[0]) / of_rows.spread**2
        sd[rows] = 1.0 / q[1] - q[1] / of_rows.spread**2
        for name in parameters:
            gradient[name] = gradient[name] + of_rows.gradient(*q)[name]
    more, slope = positions.log_prior(parameters)
    assert found + more == pytest.approx(float(expected), rel=1e-10)
    near = {"rtol": 1e-10, "atol": 1e-10}
    np.testing.assert_allclose(mean, slopes[0], **near)
    np.testing.assert_allclose(sd, slopes[1], **near)
    for name, by_graph, unit in zip(parameters, slopes[2:], (1.0, 0.6), strict=False):
        np.testing.assert_allclose(gradient[name] + slope[name], unit * by_graph, **near)
