"""Columns grouped by their observed rows, and the warning of what they cost."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pm_gplvm.patterns import column_patterns, warn_of_cost

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=6))


@given(seen=masks)
def test_every_entry_is_in_one_block(seen):
    F = np.where(seen, np.arange(seen.size, dtype=float).reshape(seen.shape), np.nan)
    count = np.zeros(seen.shape, dtype=int)
    for rows, columns, block in column_patterns(seen).blocks(F):
        np.testing.assert_array_equal(block, F[np.ix_(rows, columns)])
        assert not np.isnan(block).any()
        count[np.ix_(rows, columns)] += 1
    np.testing.assert_array_equal(count, seen)


@given(seen=masks, seed=st.integers(0, 100))
def test_there_are_as_many_as_columns_that_differ(seen, seed):
    patterns = column_patterns(seen)
    assert len(patterns) == len({column.tobytes() for column in seen.T})
    np.testing.assert_array_equal(patterns.seen[patterns.group], seen.T)
    order = np.random.default_rng(seed).permutation(seen.shape[1])
    assert len(column_patterns(seen[:, order])) == len(patterns)


def test_a_complete_table_is_one_block_and_not_copied(rng):
    F = rng.normal(size=(4, 3))
    ((rows, columns, block),) = column_patterns(np.ones((4, 3), dtype=bool)).blocks(F)
    assert block is F
    assert (rows.tolist(), columns.tolist()) == ([0, 1, 2, 3], [0, 1, 2])


def test_many_patterns_are_told_with_what_they_cost():
    seen = ~np.eye(12, dtype=bool)  # 12 patterns of 11 rows each
    with pytest.warns(RuntimeWarning, match=r"12 patterns .* 12 columns.* about 9 times"):
        warn_of_cost(column_patterns(seen))


def test_few_patterns_are_not_worth_a_word():
    seen = np.ones((12, 500), dtype=bool)
    seen[0, ::2] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_cost(column_patterns(seen))
