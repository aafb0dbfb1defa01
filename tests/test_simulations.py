"""The simulations of tests/simulations, short: every part runs, and what it must show is there."""

import numpy as np
import pytest
from simulations import study_statistics


@pytest.mark.parametrize("part", study_statistics.PARTS)
def test_every_part_runs(part):
    rows = list(part(2, np.random.default_rng(0)))
    assert rows and all(str(row).count("|") == 5 for row in rows)
