"""Scores of embeddings and distances between them, each by another route."""

import numpy as np
import pytest
from made import rotations
from oracles import neighbour_errors

import pm_gplvm as gplvm
from pm_gplvm.core.procrustes import distance_correlation, procrustes_distance


def test_neighbour_errors_are_counted(rng):
    X, labels = rng.standard_normal((40, 2)), rng.integers(0, 3, 40)
    scores = gplvm.diagnostics.score_embedding(X, rng.standard_normal((40, 5)), labels)
    assert scores["nn_errors"] == neighbour_errors(X, labels)
    assert scores["nn_agreement"] == pytest.approx(1 - scores["nn_errors"] / 40)


def test_the_table_itself_is_fully_trustworthy(rng):
    Y = rng.standard_normal((30, 3))
    assert gplvm.diagnostics.score_embedding(Y, Y)["trustworthiness"] == pytest.approx(1.0)
    assert (
        gplvm.diagnostics.score_embedding(rng.standard_normal((30, 3)), Y)["trustworthiness"] < 0.8
    )


def test_pca_of_the_oil_flow_data_makes_the_published_errors(data_file):
    # Lawrence (2005), table 3, and Lawrence (2007), table 1.
    with np.load(data_file("oil_flow.npz")) as file:
        Y, labels = file["Y_train"], file["labels_train"]
    centred = Y - Y.mean(axis=0)
    U, S, _ = np.linalg.svd(centred, full_matrices=False)
    assert gplvm.diagnostics.score_embedding(U[:, :2] * S[:2], Y, labels)["nn_errors"] == 162
    assert gplvm.diagnostics.score_embedding(Y, Y, labels)["nn_errors"] == 2


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
        gplvm.diagnostics.score_embedding(X, Y, labels)


# Distances


def distance_correlation_by_loops(X, Y):
    """Székely, Rizzo & Bakirov (2007), equations 2.8 to 2.10, one entry at a time."""
    n = len(X)

    def centred(Z):
        a = [[np.linalg.norm(Z[k] - Z[j]) for j in range(n)] for k in range(n)]
        rows = [sum(a[k]) / n for k in range(n)]
        total = sum(rows) / n
        return [[a[k][j] - rows[k] - rows[j] + total for j in range(n)] for k in range(n)]

    def mean_product(A, B):
        return sum(A[k][j] * B[k][j] for k in range(n) for j in range(n)) / n**2

    A, B = centred(X), centred(Y)
    return np.sqrt(mean_product(A, B) / np.sqrt(mean_product(A, A) * mean_product(B, B)))


def test_distance_correlation(rng):
    X, Y = rng.standard_normal((9, 2)), rng.standard_normal((9, 4))
    expected = distance_correlation_by_loops(X, Y)
    assert distance_correlation(X, Y) == pytest.approx(expected, rel=1e-10)
    turn = rotations(rng, (1,), 2)[0]
    assert distance_correlation(X, 3.0 + 2.0 * X @ turn) == pytest.approx(1.0)
    assert distance_correlation(X, np.zeros((9, 1))) == 0.0


def test_procrustes_distance(rng):
    X = rng.standard_normal((9, 2))
    turn = rotations(rng, (1,), 2)[0]
    assert procrustes_distance(1.0 + 3.0 * X @ turn, X) == pytest.approx(0.0, abs=1e-12)
    other = rng.standard_normal((9, 2))
    # By the singular values of the overlap: 1 - (Σ s)² for centred tables of unit size.
    A, B = (v - v.mean(axis=0) for v in (X, other))
    s = np.linalg.svd(A.T @ B / np.linalg.norm(A) / np.linalg.norm(B), compute_uv=False)
    assert procrustes_distance(other, X) == pytest.approx(1.0 - s.sum() ** 2)
    flat = np.column_stack([X, np.zeros(9)])
    assert procrustes_distance(flat, other) == pytest.approx(procrustes_distance(X, other))
