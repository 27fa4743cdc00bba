"""Nobody can tell from the time of an answer whether an account exists.

Each test measures 200 interleaved pairs and compares medians; run it with `-s` for the figures.
On a busy machine a measurement may be spoilt: it is repeated, and a difference that there really
is comes back each time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from auth_steps import OTHER_PASSWORD, PASSWORD, Account, Api
from flask import Flask
from loguru import logger

PAIRS = 200
# Far below what a skipped bcrypt makes (half of the time at this cheap cost, all but 2 % at 12),
# and above what a busy machine does to medians.
TOLERANCE = 0.1

pytestmark = pytest.mark.slow


@pytest.fixture
def measured(make_app: Callable[[Mapping[str, Any]], Flask], app: Flask) -> Iterator[Api]:
    """The API of an application that throttles nobody, without the noise of logs."""
    api = Api(make_app({"auth": {"bcrypt_rounds": 7, "throttle_failures": 100_000}}))
    logger.disable("ghost")
    yield api
    logger.enable("ghost")


def measure(first: Callable[[], int], second: Callable[[], int], expect: int) -> float:
    """Call both by turns; gives the difference of the medians, relative to the first."""
    seconds: tuple[list[float], list[float]] = ([], [])
    calls = ((first, seconds[0]), (second, seconds[1]))
    for number in range(PAIRS + 10):
        for call, found in calls if number % 2 else reversed(calls):
            started = time.perf_counter()
            assert call() == expect
            if number >= 10:  # the first ones warm up
                found.append(time.perf_counter() - started)
    one, other = (statistics.median(each) for each in seconds)
    difference = (other - one) / one
    print(f"\n{PAIRS} pairs: {one * 1000:.3f} ms and {other * 1000:.3f} ms, {difference:+.1%}")
    return difference


def assert_equal_time(first: Callable[[], int], second: Callable[[], int], expect: int) -> None:
    """Fail if every one of three measurements finds a difference."""
    differences: list[float] = []
    while len(differences) < 3:
        differences.append(measure(first, second, expect))
        if abs(differences[-1]) < TOLERANCE:
            return
    pytest.fail(f"the answers differ in time: {', '.join(f'{each:+.1%}' for each in differences)}")


def log_in(api: Api, email: str, password: str) -> Callable[[], int]:
    body = {"email": email, "password": password}
    return lambda: api.post("/login", body).status_code


@pytest.mark.parametrize("other", ["unknown", "deleted", "without a password", "disabled"])
def test_a_wrong_password_takes_as_long_as(
    measured: Api, register: Callable[..., Account], run_sql: Callable[..., list[Any]], other: str
) -> None:
    register(email="known@example.org")
    email = f"{other.replace(' ', '-')}@example.org"
    if other != "unknown":
        register(email=email)
    change = {
        "deleted": "UPDATE users SET deleted_at = created_at WHERE email = :email",
        "without a password": "UPDATE users SET password_hash = NULL WHERE email = :email",
        "disabled": "UPDATE users SET is_active = (1 = 0) WHERE email = :email",
    }
    if other in change:
        run_sql(change[other], email=email)
    # What was registered at another cost is measured at this one.
    measured.login("known@example.org", PASSWORD)

    assert_equal_time(
        log_in(measured, "known@example.org", OTHER_PASSWORD),
        log_in(measured, email, OTHER_PASSWORD),
        expect=401,
    )


@pytest.mark.parametrize("path", ["/forgot-password", "/resend-verification"])
def test_asking_for_a_mail_takes_as_long_for_an_unknown_address(
    measured: Api, register: Callable[..., Account], path: str
) -> None:
    register(email="known@example.org")

    assert_equal_time(
        lambda: measured.post(path, {"email": "known@example.org"}).status_code,
        lambda: measured.post(path, {"email": "nobody@example.org"}).status_code,
        expect=202,
    )


def test_a_wrong_code_takes_as_long_for_an_unknown_address(
    measured: Api,
    register: Callable[..., Account],
    new_mails: Callable[[], list[Any]],
) -> None:
    register(email="known@example.org")
    new_mails()

    assert_equal_time(
        lambda: (
            measured.post(
                "/verify-email", {"email": "known@example.org", "code": "123456"}
            ).status_code
        ),
        lambda: (
            measured.post(
                "/verify-email", {"email": "nobody@example.org", "code": "123456"}
            ).status_code
        ),
        expect=410,
    )
