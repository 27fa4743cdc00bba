"""When schedules are due: expressions, intervals, and what the clocks do twice a year."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost.timing import (
    check_timezone,
    cron_timing,
    due_times,
    interval_timing,
    latest_due,
    next_due,
)

pytestmark = pytest.mark.unit


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def due(expression: str, timezone: str, after: str, until: str) -> list[str]:
    """The due times of a span, as the wall shows them with the offset from UTC."""
    zone = ZoneInfo(timezone)
    found = due_times(cron_timing(expression), timezone, at(after), at(until))
    return [f"{moment.astimezone(zone):%d %H:%M %z}" for moment in found]


# Europe/Berlin: 02:00 to 03:00 is skipped on 29 March 2026 and shown twice on 25 October 2026.
# America/New_York: the same on 8 March and, for 01:00 to 02:00, on 1 November 2026.
# Australia/Lord_Howe: half an hour. 02:00 to 02:30 is skipped on 4 October 2026, 01:30 to 02:00
# is shown twice on 5 April 2026. Pacific/Apia had no 30 December 2011.


@pytest.mark.parametrize(
    ("expression", "timezone", "after", "until", "expected"),
    [
        (
            "30 2 * * *", "Europe/Berlin", "2026-03-28T00:00", "2026-03-30T12:00",
            ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"],
        ),
        (
            "30 2 * * *", "America/New_York", "2026-03-07T12:00", "2026-03-09T12:00",
            ["08 03:00 -0400", "09 02:30 -0400"],
        ),
        (
            "15 2 * * *", "Australia/Lord_Howe", "2026-10-02T12:00", "2026-10-04T16:00",
            ["03 02:15 +1030", "04 02:30 +1100", "05 02:15 +1100"],
        ),
        (
            "0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00", "2012-01-05T00:00",
            ["31 00:00 +1400"],
        ),
        (
            "*/10 2 * * *", "Europe/Berlin", "2026-03-28T12:00", "2026-03-29T12:00",
            ["29 03:00 +0200"],
        ),
    ],
    ids=["Berlin", "New York", "half an hour", "a whole day", "several times in one gap"],
)  # fmt: skip
def test_a_time_that_the_clocks_skip_is_due_once_after_the_gap(
    expression, timezone, after, until, expected
):
    assert due(expression, timezone, after, until) == expected


@pytest.mark.parametrize(
    ("expression", "timezone", "after", "until", "expected"),
    [
        (
            "30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", "2026-10-26T12:00",
            ["25 02:30 +0200", "26 02:30 +0100"],
        ),
        (
            "30 1 * * *", "America/New_York", "2026-11-01T00:00", "2026-11-02T12:00",
            ["01 01:30 -0400", "02 01:30 -0500"],
        ),
        (
            "45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00", "2026-04-05T16:00",
            ["05 01:45 +1100", "06 01:45 +1030"],
        ),
        (
            "0 */2 * * *", "Europe/Berlin", "2026-10-24T22:30", "2026-10-25T05:30",
            ["25 02:00 +0200", "25 04:00 +0100", "25 06:00 +0100"],
        ),
    ],
    ids=["Berlin", "New York", "half an hour", "every other hour"],
)  # fmt: skip
def test_a_time_that_the_clocks_show_twice_is_due_the_first_time(
    expression, timezone, after, until, expected
):
    assert due(expression, timezone, after, until) == expected


CHANGES = {
    "Europe/Berlin in spring": ("Europe/Berlin", "2026-03-29T01:00"),
    "Europe/Berlin in autumn": ("Europe/Berlin", "2026-10-25T01:00"),
    "America/New_York in spring": ("America/New_York", "2026-03-08T07:00"),
    "America/New_York in autumn": ("America/New_York", "2026-11-01T06:00"),
    "Australia/Lord_Howe in spring": ("Australia/Lord_Howe", "2026-10-03T15:30"),
    "Australia/Lord_Howe in autumn": ("Australia/Lord_Howe", "2026-04-04T15:00"),
    "UTC": ("UTC", "2026-03-29T01:00"),
}


@pytest.mark.parametrize(("timezone", "change"), CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("minutes", [1, 10, 15, 30])
def test_what_is_due_each_hour_goes_on_as_time_passes(timezone, change, minutes):
    start, end = at(change) - timedelta(hours=3), at(change) + timedelta(hours=3)

    found = list(due_times(cron_timing(f"*/{minutes} * * * *"), timezone, start, end))

    step = timedelta(minutes=minutes)
    assert found == [start + step * count for count in range(1, int((end - start) / step) + 1)]


def test_a_whole_hour_is_due_in_both_of_two_equal_hours_and_not_made_up_after_a_gap():
    assert due("0 * * * *", "Europe/Berlin", "2026-10-24T23:30", "2026-10-25T02:30") == [
        "25 02:00 +0200", "25 02:00 +0100", "25 03:00 +0100",
    ]  # fmt: skip
    assert due("30 * * * *", "Europe/Berlin", "2026-03-28T23:45", "2026-03-29T02:00") == [
        "29 01:30 +0100", "29 03:30 +0200",
    ]  # fmt: skip


def test_the_second_of_two_equal_hours_is_not_forgotten_when_the_look_begins_in_the_first():
    found = due("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:15", "2026-10-25T02:00")

    assert found == ["25 02:30 +0200", "25 02:00 +0100", "25 02:30 +0100", "25 03:00 +0100"]


@given(
    timezone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]),
    expression=st.sampled_from(["30 2 * * *", "*/7 1-3 * * *", "0 * * * *", "15,45 */2 * * *"]),
    start_seconds=st.integers(0, 360 * 86400),
    cut_seconds=st.integers(0, 10 * 86400),
)
def test_two_looks_find_what_one_look_finds(timezone, expression, start_seconds, cut_seconds):
    timing = cron_timing(expression)
    start = at("2026-01-01") + timedelta(seconds=start_seconds)
    cut, end = start + timedelta(seconds=cut_seconds), start + timedelta(days=10)

    whole = list(due_times(timing, timezone, start, end))

    halves = [*due_times(timing, timezone, start, cut), *due_times(timing, timezone, cut, end)]
    assert whole == halves == sorted(set(whole))


def test_an_interval_is_due_at_its_multiples_since_1970_wherever_one_begins_to_look():
    seconds = 7 * 60
    timing = interval_timing(seconds)

    found = list(due_times(timing, "UTC", at("2026-05-01T10:00:00.5"), at("2026-05-01T11:00")))

    assert len(found) == 9
    assert all(moment.timestamp() % seconds == 0 for moment in found)
    assert next_due(timing, "UTC", found[0]) == found[1]


def test_a_due_time_is_later_than_the_begin_and_not_later_than_the_end():
    whole = due("0 3 * * *", "UTC", "2026-05-01T03:00", "2026-05-03T03:00")

    assert whole == ["02 03:00 +0000", "03 03:00 +0000"]


@pytest.mark.parametrize(
    ("timing", "expected"),
    [
        ("every 1", at("2026-05-01T12:00:00")),
        ("cron */5 * * * *", at("2026-05-01T12:00")),
        ("cron 0 3 * * *", at("2026-05-01T03:00")),
        ("cron 0 0 29 2 *", at("2024-02-29T00:00")),
    ],
)
def test_the_latest_due_time_is_found_after_years(timing, expected):
    assert latest_due(timing, "UTC", at("2020-01-01"), at("2026-05-01T12:00:00.5")) == expected


def test_there_is_no_latest_due_time_where_there_was_none():
    assert latest_due("cron 0 3 * * *", "UTC", at("2026-05-01T04:00"), at("2026-05-02")) is None


@pytest.mark.parametrize(
    "expression",
    [
        "", "x", "@reboot", "61 * * * *", "* * * *", "0 0 30 2 *", "0 3 * * * 30", "H 3 * * *",
        "R 3 * * *", "0 r(1-3) * * *", "0 3\n* * *", "0\u00a03 * * *", "0 3 * * " + "1," * 99, None,
        5,
    ],
    ids=lambda value: ascii(value)[:20],
)  # fmt: skip
def test_what_is_no_expression_or_never_due_is_refused(expression):
    with pytest.raises(ValueError, match="is not five fields") as caught:
        cron_timing(expression)

    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "expression", ["@daily", " 0  3 * * mon-fri ", "0 3 l * *", "0 3 * * fri#2"]
)
def test_the_usual_forms_of_an_expression_are_taken(expression):
    assert next_due(cron_timing(expression), "UTC", at("2026-05-01")) is not None


@pytest.mark.parametrize("seconds", [0, -5, 0.5, 1.5, 10**9, 10**400, float("nan"), float("inf")])
def test_an_interval_that_is_tiny_broken_or_endless_is_refused(seconds):
    with pytest.raises(ValueError, match="must be a whole number of seconds from 1 to 31536000"):
        interval_timing(seconds)


@pytest.mark.parametrize("name", ["Mars/Base", "", "Europe", "../etc/passwd", "localtime", None])
def test_what_is_no_time_zone_is_refused(name):
    with pytest.raises(ValueError, match="is not the name of a time zone"):
        check_timezone(name)
