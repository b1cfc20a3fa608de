"""Every verb gives the numbers that were frozen: see golden_cases.py and scripts/freeze."""

import json
from pathlib import Path

import numpy as np
import pytest
from golden_cases import CASES, TABLES, run

FROZEN = json.loads(Path(__file__).with_name("golden.json").read_text())


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("name", CASES)
def test_numbers_are_as_frozen(name, kind):
    wanted, found = FROZEN[f"{name}, {kind}"], run(name, kind)
    if isinstance(wanted, str):
        assert found == wanted
        return
    assert not isinstance(found, str), found
    assert found.keys() == wanted.keys()
    for part, value in found.items():
        known = np.reshape(np.array(wanted[part]["values"], dtype=float), wanted[part]["shape"])
        # Entries far below the largest are differences of such, and known to its rounding only.
        size = float(np.abs(known[np.isfinite(known)]).max(initial=0.0))
        np.testing.assert_allclose(
            value, known, rtol=CASES[name][1], atol=CASES[name][1] * size, err_msg=part
        )


def test_nothing_is_frozen_without_a_case():
    assert FROZEN.keys() == {f"{name}, {kind}" for name in CASES for kind in TABLES}
