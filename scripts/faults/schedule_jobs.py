"""Jobs on the clock for schedules.py."""

from ghost import cron, every


@every(seconds=1)
def second() -> None:
    """Due each second."""


@every(seconds=2, missed="skip")
def other_second() -> None:
    """Due each other second, and skipped after a minute without any scheduler."""


@cron("* * * * *", timezone="Australia/Lord_Howe")
def minute() -> None:
    """Due each minute."""
