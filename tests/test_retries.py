"""How long a server is waited for: what it asks for, within measure."""

from __future__ import annotations

import email.utils
import time

import pytest

from mmm_rs_reading import retries


@pytest.mark.parametrize(
    "value", [None, "", "nan", "inf", "-inf", "-1", "1e999", "soon", "0x10", "Thu, 99 Foo 2026", [], {}]
)
def test_nonsense_asks_for_no_wait(value):
    assert retries.retry_after(value) == 0


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("0.5", 0.5), (3, 3), ("1e300", retries.LONGEST_ASKED_WAIT)])
def test_seconds_within_measure(value, seconds):
    assert retries.retry_after(value) == seconds


@pytest.mark.parametrize(
    ("away", "least", "most"), [(20, 15, 20), (-20, 0, 0), (10**9, *[retries.LONGEST_ASKED_WAIT] * 2)]
)
def test_a_date_asks_for_the_time_until_then(away, least, most):
    assert least <= retries.retry_after(email.utils.formatdate(time.time() + away, usegmt=True)) <= most
