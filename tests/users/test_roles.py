"""`/roles`: roles, their permissions, and what nobody may do with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ghost.users.rights import SEED_ROLES

from .conftest import MakePerson, Person

ROLE_FIELDS = {
    "name", "description", "permissions", "is_built_in", "created_at", "updated_at",
}  # fmt: skip


@pytest.fixture
def staffer(person: MakePerson, make_role: Callable[..., str]) -> Person:
    """Somebody below ADMIN who has a say on roles."""
    make_role("STAFF", "roles:write", "users:read")
    return person("STAFF")


def test_the_built_in_roles_are_there_with_their_permissions(boss: Person) -> None:
    response = boss.get("/roles")

    roles = {role["name"]: role for role in response.json["data"]}
    assert list(roles) == ["ADMIN", "SUPER_ADMIN", "USER"]
    assert response.json["meta"]["pagination"]["total"] == 3
    assert all(role.keys() == ROLE_FIELDS and role["is_built_in"] for role in roles.values())
    for name, _, permissions in SEED_ROLES[:2]:
        assert roles[name]["permissions"] == sorted(permissions)
    assert {"roles:write", "users:verify", "users:read"} <= set(roles["SUPER_ADMIN"]["permissions"])


def test_roles_come_in_pages(boss: Person) -> None:
    response = boss.get("/roles?page=2&per_page=2")

    assert [role["name"] for role in response.json["data"]] == ["USER"]
    assert boss.get("/roles?sort=name").status_code == 422


def test_a_role_is_created_assigned_changed_and_deleted(boss: Person, user: Person) -> None:
    made = boss.post(
        "/roles",
        {"name": "SUPPORT", "description": "Answers", "permissions": ["users:read", "users:read"]},
    )
    boss.put(f"{user.path}/roles", {"roles": ["SUPPORT"]})
    reads = user.get("/users").status_code
    changed = boss.patch("/roles/SUPPORT", {"permissions": ["jobs:read"]})
    reads_no_more = user.get("/users").status_code
    boss.put(f"{user.path}/roles", {"roles": ["USER"]})
    deleted = boss.delete("/roles/SUPPORT")

    assert made.status_code == 201
    assert made.headers["Location"].endswith("/api/v1/roles/SUPPORT")
    assert made.json["data"]["permissions"] == ["users:read"]
    assert made.json["data"]["is_built_in"] is False
    assert changed.json["data"]["permissions"] == ["jobs:read"]
    assert changed.json["data"]["description"] == "Answers"
    assert (reads, reads_no_more, deleted.status_code) == (200, 403, 204)
    assert boss.delete("/roles/SUPPORT").status_code == 404


def test_a_name_is_taken_once(boss: Person) -> None:
    boss.post("/roles", {"name": "SUPPORT"})

    for name in ("SUPPORT", "ADMIN"):
        response = boss.post("/roles", {"name": name})
        assert response.status_code == 409
        assert response.json["error"]["details"]["json"].keys() == {"name"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "support"},
        {"name": "S"},
        {"name": "S" * 65},
        {"name": "1SUPPORT"},
        {"name": "SUP-PORT"},
        {"name": "SUPPORT\n"},
        {"name": "SÜPPORT"},
        {"name": 5},
        {"name": "SUPPORT", "permissions": ["users:fly"]},
        {"name": "SUPPORT", "permissions": "users:read"},
        {"name": "SUPPORT", "permissions": {"users:read": True}},
        {"name": "SUPPORT", "permissions": None},
        {"name": "SUPPORT", "permissions": [5]},
        {"name": "SUPPORT", "permissions": ["\x00"]},
        {"name": "SUPPORT", "description": "x" * 201},
        {"name": "SUPPORT", "description": None},
        {"name": "SUPPORT", "is_built_in": True},
        {"name": "SUPPORT", "users": []},
    ],
    ids=str,
)
def test_what_is_no_role_is_refused(boss: Person, body: dict[str, Any]) -> None:
    assert boss.post("/roles", body).status_code == 422


def test_an_unknown_permission_is_named(boss: Person) -> None:
    response = boss.patch("/roles/USER", {"permissions": ["users:fly", "users:read"]})

    assert response.json["error"]["details"] == {
        "json": {"permissions": ["There is no permission users:fly."]}
    }


@pytest.mark.parametrize("name", ["NO_SUCH", "user", "%00", "A%00", "x" * 300, "%ff", "..%2f"])
def test_a_role_that_never_was_is_not_found(boss: Person, name: str) -> None:
    assert boss.patch(f"/roles/{name}", {"description": "x"}).status_code == 404
    assert boss.delete(f"/roles/{name}").status_code == 404


@pytest.mark.parametrize("name", ["USER", "ADMIN", "SUPER_ADMIN"])
def test_a_built_in_role_is_never_deleted(boss: Person, name: str) -> None:
    response = boss.delete(f"/roles/{name}")

    assert response.status_code == 409
    assert "built in" in response.json["message"]
    assert list(response.json["error"]["details"]["json"]) == ["name"]
    assert len(boss.get("/roles").json["data"]) == 3


def test_a_super_admin_keeps_every_permission(boss: Person) -> None:
    refused = boss.patch("/roles/SUPER_ADMIN", {"permissions": []})
    described = boss.patch("/roles/SUPER_ADMIN", {"description": "The owners"})

    assert refused.status_code == 409
    assert described.json["data"]["description"] == "The owners"
    assert boss.get("/roles").status_code == 200


def test_an_assigned_role_is_not_deleted(
    boss: Person, person: MakePerson, make_role: Callable[..., str]
) -> None:
    holder = person(make_role("SUPPORT"))

    while_held = boss.delete("/roles/SUPPORT")
    boss.delete(holder.path)
    while_restorable = boss.delete("/roles/SUPPORT")

    assert (while_held.status_code, while_restorable.status_code) == (409, 409)
    assert "still have this role" in while_held.json["message"]
    assert list(while_held.json["error"]["details"]["json"]) == ["name"]
    boss.post(f"{holder.path}/restore")
    assert boss.get(holder.path).json["data"]["roles"] == ["SUPPORT"]


def test_nobody_grants_or_takes_a_permission_they_lack(
    staffer: Person, make_role: Callable[..., str], boss: Person
) -> None:
    make_role("READER", "users:read")

    created = staffer.post("/roles", {"name": "ROBBER", "permissions": ["users:write"]})
    raised = staffer.patch("/roles/READER", {"permissions": ["users:read", "users:write"]})
    within = staffer.patch("/roles/READER", {"permissions": ["roles:write"]})

    assert (created.status_code, raised.status_code, within.status_code) == (403, 403, 200)
    roles = {role["name"]: role["permissions"] for role in boss.get("/roles").json["data"]}
    assert "ROBBER" not in roles
    assert roles["READER"] == ["roles:write"]


@pytest.mark.parametrize("name", ["STAFF", "USER", "ADMIN", "SUPER_ADMIN", "MAILER"])
def test_roles_that_one_has_or_that_stand_higher_are_out_of_reach(
    staffer: Person, boss: Person, make_role: Callable[..., str], name: str
) -> None:
    make_role("MAILER", "mail:send")
    before = boss.get("/roles").json["data"]

    responses = [
        staffer.patch(f"/roles/{name}", {"permissions": ["users:read"]}),
        staffer.patch(f"/roles/{name}", {"permissions": []}),
        staffer.patch(f"/roles/{name}", {"description": "mine"}),
        staffer.delete(f"/roles/{name}"),
    ]

    assert [response.status_code for response in responses] == [403] * 4
    assert boss.get("/roles").json["data"] == before


def test_a_permission_whose_feature_is_gone_may_stay(
    boss: Person, make_role: Callable[..., str]
) -> None:
    make_role("OLD", "shop:sell", "users:read")

    kept = boss.patch("/roles/OLD", {"permissions": ["shop:sell"]})
    dropped = boss.patch("/roles/OLD", {"permissions": []})
    again = boss.patch("/roles/OLD", {"permissions": ["shop:sell"]})

    assert kept.json["data"]["permissions"] == ["shop:sell"]
    assert dropped.json["data"]["permissions"] == []
    assert again.status_code == 422
