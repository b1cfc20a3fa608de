"""The plane that the plots are drawn in."""

import numpy as np
import pytest
from made import fit_of

import pm_gplvm as gplvm
from pm_gplvm.data.fit import Fit
from pm_gplvm.plot.elements import mesh, plane_of
from pm_gplvm.plot.frame import limits_of


@pytest.fixture
def fit(Y, rng):
    model = gplvm.build_model(Y, 3, ard=True)
    X = rng.standard_normal((1, 4, 12, 3))
    theta = {"lengthscale": np.broadcast_to([9.0, 0.5, 1.0], (1, 4, 3)), "amplitude": 1.0}
    return fit_of(model, X, sigma=0.1, **theta)


def test_the_most_relevant_dimensions_are_chosen_and_the_others_held(fit):
    plane = plane_of(Fit(fit), None)
    assert plane.dims == (1, 2)
    X = fit["posterior"]["X"].to_numpy()[0]
    np.testing.assert_allclose(plane.X, X.mean(axis=0)[:, [1, 2]])
    lifted = plane.lift(np.array([[5.0, 6.0]]))
    np.testing.assert_allclose(lifted, [[np.median(X.mean(axis=0)[:, 0]), 5.0, 6.0]])
    assert plane.varies


def test_the_mesh_is_of_cell_centres_the_first_dimension_fastest(fit):
    plane = plane_of(Fit(fit), (0, 1))
    centres = mesh(np.array([[0.0, 10.0], [1.0, 14.0]]), (2, 4))
    assert centres[:3].tolist() == [[0.25, 10.5], [0.75, 10.5], [0.25, 11.5]]
    assert centres[-1].tolist() == [0.75, 13.5]
    low, high = limits_of(plane.X, 0.0)
    assert (low == plane.X.min(axis=0)).all()
    assert (high == plane.X.max(axis=0)).all()


@pytest.mark.parametrize("dims", [(0, 0), (0, 3), (-1, 0), (0, 1, 2)])
def test_wrong_dims(fit, dims):
    with pytest.raises(ValueError, match="two different dimensions below 3"):
        plane_of(Fit(fit), dims)
