"""Scores of embeddings and tables of fits."""

import numpy as np
import pytest
from oracles import neighbour_errors

import pm_gplvm as gplvm
from pm_gplvm.scores import classes_of


def test_neighbour_errors_are_counted(rng):
    X, labels = rng.standard_normal((40, 2)), rng.integers(0, 3, 40)
    scores = gplvm.score_embedding(X, rng.standard_normal((40, 5)), labels)
    assert scores["nn_errors"] == neighbour_errors(X, labels)
    assert scores["nn_agreement"] == pytest.approx(1 - scores["nn_errors"] / 40)


def test_the_table_itself_is_fully_trustworthy(rng):
    Y = rng.standard_normal((30, 3))
    assert gplvm.score_embedding(Y, Y)["trustworthiness"] == pytest.approx(1.0)
    assert gplvm.score_embedding(rng.standard_normal((30, 3)), Y)["trustworthiness"] < 0.8


def test_pca_of_the_oil_flow_data_makes_the_published_errors(data_file):
    # Lawrence (2005), table 3, and Lawrence (2007), table 1.
    with np.load(data_file("oil_flow.npz")) as file:
        Y, labels = file["Y_train"], file["labels_train"]
    centred = Y - Y.mean(axis=0)
    U, S, _ = np.linalg.svd(centred, full_matrices=False)
    assert gplvm.score_embedding(U[:, :2] * S[:2], Y, labels)["nn_errors"] == 162
    assert gplvm.score_embedding(Y, Y, labels)["nn_errors"] == 2


@pytest.mark.parametrize(
    ("X", "Y", "labels", "message"),
    [
        (np.zeros((3, 1)), np.zeros((4, 1)), None, "tables with the same rows"),
        (np.full((3, 1), np.nan), np.zeros((3, 1)), None, "X must be finite"),
        (np.arange(3.0)[:, None], np.eye(3), [0, 1], "labels must have one entry a row, 3"),
    ],
)
def test_wrong_input_is_refused(X, Y, labels, message):
    with pytest.raises(ValueError, match=message):
        gplvm.score_embedding(X, Y, labels)


def test_the_table_of_theta_holds_what_it_says(best, theta):
    table = gplvm.summarise_theta(best, theta)
    assert table.index.tolist() == ["lengthscale", "amplitude", "sigma"]
    draws = theta.posterior["sigma"].to_numpy()
    assert table.loc["sigma", "mean"] == pytest.approx(draws.mean())
    assert table.loc["sigma", "sd"] == pytest.approx(draws.std(ddof=1))
    assert table.loc["sigma", "estimate"] == pytest.approx(best.posterior["sigma"].item())
    # The mode lies within the draws: θ is well known given X.
    assert (np.abs(table["estimate"] - table["mean"]) < 3 * table["sd"]).all()


def test_unknown_coordinates_are_named(best):
    assert len(classes_of(best, "label")) == 30
    with pytest.raises(ValueError, match="no coordinate 'stage' along its rows, got obs, label"):
        classes_of(best, "stage")
