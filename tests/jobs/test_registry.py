from __future__ import annotations

from types import FunctionType

import pytest

from ghost.jobs import job, registry

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_functions", {})


def make(module: str, name: str = "send") -> FunctionType:
    def function(count: int = 1) -> int:
        return count + 1

    function.__module__, function.__qualname__ = module, name
    return function


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("ghost.auth.jobs", "auth.send"),
        ("ghost.mail.jobs", "mail.send"),
        ("shop.jobs", "shop.send"),
        ("shop.orders.jobs", "shop.orders.send"),
        ("shop.tasks", "shop.tasks.send"),
        ("jobs", "jobs.send"),
        ("ghostly.jobs", "ghostly.send"),
    ],
)
def test_the_name_of_a_job_follows_from_its_place(module, name):
    assert job(make(module)).name == name
    assert registry.find(name).name == name


def test_called_a_job_is_the_plain_function():
    add = job(make("shop.jobs"))

    assert add(4) == 5
    assert add(count=1) == 2


def test_a_job_can_have_a_name_of_its_own():
    assert job(name="mail.deliver")(make("shop.jobs")).name == "mail.deliver"


def test_two_functions_of_one_name_are_refused():
    job(make("shop.jobs"))

    with pytest.raises(ValueError, match=r"two functions claim the job name 'shop\.send'"):
        job(name="shop.send")(make("shop.other"))


def test_a_module_may_be_imported_again():
    first, second = job(make("shop.jobs")), job(make("shop.jobs"))

    assert registry.find("shop.send") is second is not first


def test_an_unknown_name_is_explained():
    with pytest.raises(registry.UnknownJob, match=r"jobs\.modules"):
        registry.find("os.system")


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"max_attempts": "5"},
        {"timeout": 0},
        {"timeout": 1.5},
        {"backoff": -1},
        {"name": "a b"},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=r"must be|can't be the name"):
        job(**options)(make("shop.jobs"))


def test_only_plain_functions_at_the_top_of_a_module_can_be_jobs():
    async def later() -> None:
        pass

    with pytest.raises(TypeError, match="plain function"):
        job(later)
    with pytest.raises(TypeError, match="plain function"):
        job(print)
    with pytest.raises(ValueError, match="at the top of its module"):
        job(lambda: None)


def test_a_queue_that_no_worker_listens_to_stops_the_start():
    job(queue="hihg")(make("shop.jobs"))

    with pytest.raises(ValueError, match=r"'hihg', which jobs\.queues does not name"):
        registry.check(["high", "default", "low"])


def test_an_argument_that_cant_travel_stops_the_start():
    def function(user: object) -> None:
        pass

    function.__module__, function.__qualname__ = "shop.jobs", "send"
    job(function)

    with pytest.raises(TypeError, match="can't travel as JSON"):
        registry.check(["default"])
