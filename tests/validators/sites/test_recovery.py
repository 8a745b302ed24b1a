"""Masks and coefficients come back from every form bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from aurep.metadata import coefficient_digest
from aurep.validators.sites.recovery import recover_sites
from tests.validators import graphs


@pytest.mark.parametrize("form", graphs.FORMS)
@pytest.mark.parametrize("kept", [1, 143])
def test_sites_are_recovered_bit_for_bit(form: str, kept: int) -> None:
    made = graphs.hybrid(form, kept=kept)
    site = recover_sites(made.model)["act"]
    assert np.array_equal(site.mask, made.mask)
    full = np.broadcast_to(made.coefficients[:, None, None], (*graphs.SHAPE, 3))
    assert site.coefficients[~made.mask].tobytes() == full[~made.mask].tobytes()
    assert site.has_digest(coefficient_digest(made.coefficients), 2) is not False
    wrong = made.coefficients + np.float32(1)
    assert site.has_digest(coefficient_digest(wrong), 2) is not True
