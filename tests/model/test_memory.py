"""What would not fit into memory is refused before anything is allocated."""

import resource

import numpy as np
import pytest

import pm_gplvm as gplvm


def test_a_table_of_too_many_rows_is_refused_before_the_work(rng):
    N = 1_000_000  # 48 TB of matrices
    model = gplvm.build_model(rng.standard_normal((N, 1)), latent_dim=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MemoryError, match=r"N = 1000000 rows needs about 48000 GB.*sparse model"):
        gplvm.model.compile_objective(model)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 8 * N * 100
    assert np.isfinite(model["Y_mean"].get_value()).all()
