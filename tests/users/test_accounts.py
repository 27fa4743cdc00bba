"""`/users`: creating, reading, changing, deleting and restoring accounts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from flask import Flask

from ghost.models import uuid7
from ghost.users.models import User

from .conftest import MakePerson, Person

Row = Callable[[UUID], User]
Enqueued = Callable[[], list[tuple[str, dict[str, Any]]]]
Mails = Callable[[], list[tuple[str | None, list[str]]]]

USER_FIELDS = {
    "id", "email", "username", "full_name", "roles", "is_active", "is_verified", "avatar_url",
    "created_at", "updated_at", "last_login_at",
}  # fmt: skip


# --- Creating -------------------------------------------------------------------------------------


def test_a_created_account_is_answered_stored_and_invited(
    admin: Person, row: Row, mails: Mails
) -> None:
    response = admin.post(
        "/users", {"email": "Ada@Example.ORG", "username": "Ada", "full_name": "Ada Lovelace"}
    )

    data = response.json["data"]
    assert response.status_code == 201
    assert response.headers["Location"].endswith(f"/api/v1/users/{data['id']}")
    assert response.headers["ETag"] == '"1"'
    assert data.keys() == USER_FIELDS
    assert (data["email"], data["username"], data["roles"]) == ("ada@example.org", "Ada", ["USER"])
    assert data["is_active"] is True
    assert data["is_verified"] is False
    stored = row(UUID(data["id"]))
    assert stored.password_hash is None
    assert stored.created_by == admin.id
    assert mails() == [("users.invitation", ["ada@example.org"])]
    assert admin.get(f"/users/{data['id']}").json["data"] == data


def test_a_repeated_request_makes_one_account_and_one_invitation(
    admin: Person, enqueued: Enqueued
) -> None:
    key = {"Idempotency-Key": "once"}

    first = admin.post("/users", {"email": "ada@example.org"}, headers=key)
    second = admin.post("/users", {"email": "ada@example.org"}, headers=key)

    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json["data"] == second.json["data"]
    assert second.headers["Location"] == first.headers["Location"]
    assert len(enqueued()) == 1


@pytest.mark.parametrize("email", ["ADA@example.org", "ada@EXAMPLE.org", "ada@example.org"])
def test_an_address_is_taken_in_any_spelling(admin: Person, email: str) -> None:
    admin.post("/users", {"email": "ada@example.org"})

    response = admin.post("/users", {"email": email})

    assert response.status_code == 409
    assert response.json["error"]["details"] == {
        "json": {"email": ["This e-mail address already has an account."]}
    }


def test_a_username_is_taken_in_any_case_whatever_the_address_says(admin: Person) -> None:
    admin.post("/users", {"email": "ada@example.org", "username": "Ada.L"})

    response = admin.post("/users", {"email": "username_key@example.org", "username": "aDA.l"})

    assert response.status_code == 409
    assert response.json["error"]["details"] == {"json": {"username": ["This username is taken."]}}


def test_a_taken_address_is_no_taken_username(admin: Person) -> None:
    admin.post("/users", {"email": "username_key@example.org"})

    response = admin.post("/users", {"email": "username_key@example.org"})

    assert response.json["error"]["details"]["json"].keys() == {"email"}


def test_a_deleted_account_keeps_its_address_and_username(admin: Person) -> None:
    gone = admin.post("/users", {"email": "ada@example.org", "username": "ada"}).json["data"]["id"]
    admin.delete(f"/users/{gone}")

    assert admin.post("/users", {"email": "ada@example.org"}).status_code == 409
    assert admin.post("/users", {"email": "b@example.org", "username": "ADA"}).status_code == 409


@pytest.mark.parametrize(
    "extra",
    [
        {"role": "SUPER_ADMIN"},
        {"id": str(uuid7())},
        {"password": "correct horse battery"},
        {"password_hash": "x"},
        {"is_superuser": True},
        {"is_admin": True},
        {"is_active": True},
        {"is_verified": True},
        {"created_at": "2020-01-01T00:00:00Z"},
        {"created_by": str(uuid7())},
        {"deleted_at": None},
        {"session_epoch": 1},
        {"version": 7},
        {"username_key": "ada"},
        {"role_links": []},
        {"__class__": {}},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_fields_that_are_not_offered_are_refused_when_creating(
    boss: Person, extra: dict[str, Any]
) -> None:
    response = boss.post("/users", {"email": "ada@example.org", **extra})

    assert response.status_code == 422
    assert response.json["error"]["details"] == {"json": {next(iter(extra)): ["Unknown field."]}}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": None},
        {"email": "ada"},
        {"email": ["ada@example.org"]},
        {"email": "ada@example.org\n"},
        {"email": "ada@example.org", "username": "ab"},
        {"email": "ada@example.org", "username": "a" * 65},
        {"email": "ada@example.org", "username": "ada@home"},
        {"email": "ada@example.org", "username": "-ada"},
        {"email": "ada@example.org", "username": "ada."},
        {"email": "ada@example.org", "username": "ada l"},
        {"email": "ada@example.org", "username": "ada\n"},
        {"email": "ada@example.org", "username": "adá"},
        {"email": "ada@example.org", "username": "Admin"},
        {"email": "ada@example.org", "username": "ROOT"},
        {"email": "ada@example.org", "username": "null"},
        {"email": "ada@example.org", "username": 12345},
        {"email": "ada@example.org", "full_name": ""},
        {"email": "ada@example.org", "full_name": "  "},
        {"email": "ada@example.org", "full_name": "A\r\nBcc: x@example.org"},
        {"email": "ada@example.org", "full_name": "a" * 201},
        {"email": "ada@example.org", "roles": []},
        {"email": "ada@example.org", "roles": "ADMIN"},
        {"email": "ada@example.org", "roles": {"ADMIN": True}},
        {"email": "ada@example.org", "roles": [None]},
        {"email": "ada@example.org", "roles": ["NO_SUCH_ROLE"]},
        {"email": "ada@example.org", "roles": ["admin"]},
        [],
        "ada@example.org",
    ],
    ids=str,
)
def test_what_is_no_account_is_refused(boss: Person, body: Any) -> None:
    assert boss.post("/users", body).status_code == 422


def test_an_unknown_role_is_named(boss: Person) -> None:
    response = boss.post("/users", {"email": "ada@example.org", "roles": ["USER", "PIRATE"]})

    assert response.json["error"]["details"] == {"json": {"roles": ["There is no role PIRATE."]}}


def test_roles_beyond_user_need_the_say_on_roles(admin: Person, boss: Person) -> None:
    refused = admin.post("/users", {"email": "a@example.org", "roles": ["ADMIN"]})
    made = boss.post("/users", {"email": "a@example.org", "roles": ["ADMIN", "USER", "ADMIN"]})

    assert refused.status_code == 403
    assert made.json["data"]["roles"] == ["ADMIN", "USER"]


def test_nobody_creates_an_account_with_more_rights_than_their_own(
    person: MakePerson, make_role: Callable[..., str]
) -> None:
    make_role("STAFF", "users:read", "users:write", "roles:write")
    make_role("MAILER", "mail:send")
    staffer = person("STAFF")

    for role in ("ADMIN", "SUPER_ADMIN", "MAILER"):
        response = staffer.post("/users", {"email": "puppet@example.org", "roles": [role]})
        assert response.status_code == 403, role
    assert staffer.post("/users", {"email": "a@example.org", "roles": ["STAFF"]}).status_code == 201


# --- Reading --------------------------------------------------------------------------------------


def test_an_account_has_a_tag_and_is_not_sent_twice(admin: Person, user: Person) -> None:
    first = admin.get(user.path)

    again = admin.get(user.path, headers={"If-None-Match": first.headers["ETag"]})
    changed = admin.get(user.path, headers={"If-None-Match": '"0"'})

    assert first.status_code == changed.status_code == 200
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]


@pytest.mark.parametrize("path", [f"/users/{uuid7()}", "/users/1", "/users/%00", "/users/me"])
def test_an_account_that_never_was_is_not_found(boss: Person, path: str) -> None:
    for response in (boss.get(path), boss.patch(path, {"full_name": "A"}), boss.delete(path)):
        assert response.status_code == 404


# --- Changing -------------------------------------------------------------------------------------


def test_a_change_is_answered_stored_and_versioned(admin: Person, user: Person, row: Row) -> None:
    before = admin.get(user.path)

    response = admin.patch(user.path, {"full_name": "Ada", "username": "Ada"})

    assert response.status_code == 200
    assert response.headers["ETag"] != before.headers["ETag"]
    stored = row(user.id)
    assert (stored.full_name, stored.username, stored.username_key) == ("Ada", "Ada", "ada")
    assert stored.updated_by == admin.id
    assert stored.updated_at > stored.created_at
    assert user.is_logged_in()


def test_a_change_of_nothing_changes_nothing(admin: Person, user: Person) -> None:
    before = admin.get(user.path)

    response = admin.patch(user.path, {})

    assert response.status_code == 200
    assert response.headers["ETag"] == before.headers["ETag"]
    assert response.json["data"] == before.json["data"]


def test_names_can_be_taken_back(admin: Person, person: MakePerson, row: Row) -> None:
    ada = person(username="ada", full_name="Ada")

    response = admin.patch(ada.path, {"username": None, "full_name": None})

    assert (response.json["data"]["username"], response.json["data"]["full_name"]) == (None, None)
    assert row(ada.id).username_key is None


def test_the_case_of_ones_username_can_change(admin: Person, person: MakePerson) -> None:
    ada = person(username="ada")

    assert admin.patch(ada.path, {"username": "ADA"}).json["data"]["username"] == "ADA"


def test_taken_names_are_a_conflict_and_change_nothing(
    admin: Person, person: MakePerson, row: Row
) -> None:
    person(email="taken@example.org", username="Taken")
    ada = person(email="ada@example.org")

    by_email = admin.patch(ada.path, {"email": "TAKEN@example.org", "full_name": "A"})
    by_name = admin.patch(ada.path, {"username": "tAKEN", "full_name": "A"})

    assert by_email.json["error"]["details"]["json"].keys() == {"email"}
    assert by_name.json["error"]["details"]["json"].keys() == {"username"}
    assert by_email.status_code == by_name.status_code == 409
    assert (row(ada.id).email, row(ada.id).full_name) == ("ada@example.org", None)
    assert ada.is_logged_in()


@pytest.mark.parametrize(
    "extra",
    [
        {"id": str(uuid7())},
        {"role": "SUPER_ADMIN"},
        {"roles": ["SUPER_ADMIN"]},
        {"role_links": []},
        {"password": "correct horse battery"},
        {"password_hash": "x"},
        {"is_superuser": True},
        {"avatar_url": "https://example.org/x.png"},
        {"last_login_at": None},
        {"created_at": "2020-01-01T00:00:00Z"},
        {"deleted_at": None},
        {"session_epoch": 1},
        {"version": 7},
        {"username_key": "x"},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_fields_that_are_not_offered_are_refused_when_changing(
    boss: Person, user: Person, extra: dict[str, Any]
) -> None:
    before = boss.get(user.path)

    response = boss.patch(user.path, {"full_name": "Ada", **extra})

    assert response.status_code == 422
    assert response.json["error"]["details"] == {"json": {next(iter(extra)): ["Unknown field."]}}
    assert boss.get(user.path).json["data"] == before.json["data"]


@pytest.mark.parametrize(
    "body",
    [
        {"email": None},
        {"is_active": "false"},
        {"is_active": 0},
        {"is_active": None},
        {"is_verified": "yes"},
        {"username": 5},
        {"full_name": {}},
    ],
    ids=str,
)
def test_values_of_another_type_are_refused(
    boss: Person, user: Person, body: dict[str, Any]
) -> None:
    assert boss.patch(user.path, body).status_code == 422


def test_a_new_address_is_unverified_and_ends_what_the_former_one_opened(
    admin: Person, person: MakePerson, row: Row, mails: Mails
) -> None:
    ada = person(email="ada@example.org", password_hash="x")
    epoch = row(ada.id).session_epoch

    response = admin.patch(ada.path, {"email": "Countess@Example.org"})

    assert response.json["data"]["email"] == "countess@example.org"
    assert response.json["data"]["is_verified"] is False
    assert row(ada.id).session_epoch == epoch + 1
    assert not ada.is_logged_in()
    assert mails() == [
        ("users.email_changed", ["ada@example.org"]),
        ("users.verification", ["countess@example.org"]),
    ]


def test_who_never_chose_a_password_is_invited_again_at_the_new_address(
    admin: Person, mails: Mails
) -> None:
    made = admin.post("/users", {"email": "ada@example.org"}).json["data"]["id"]

    admin.patch(f"/users/{made}", {"email": "countess@example.org"})

    assert mails() == [
        ("users.invitation", ["ada@example.org"]),
        ("users.email_changed", ["ada@example.org"]),
        ("users.invitation", ["countess@example.org"]),
    ]


def test_the_same_address_in_another_spelling_is_no_change(
    admin: Person, user: Person, enqueued: Enqueued
) -> None:
    response = admin.patch(user.path, {"email": "USER@example.ORG"})

    assert response.json["data"]["is_verified"] is True
    assert user.is_logged_in()
    assert enqueued() == []


def test_declaring_an_address_verified_needs_a_permission_of_its_own(
    admin: Person, boss: Person, person: MakePerson, make_role: Callable[..., str], row: Row
) -> None:
    make_role("VERIFIER", "users:read", "users:write", "users:verify")
    ada = person(is_verified=False)

    for value in (True, False):
        assert admin.patch(ada.path, {"is_verified": value}).status_code == 403
    assert not row(ada.id).is_verified
    assert person("VERIFIER").patch(ada.path, {"is_verified": True}).status_code == 200
    assert row(ada.id).is_verified
    moved = boss.patch(ada.path, {"email": "new@example.org", "is_verified": True})
    assert moved.json["data"]["is_verified"] is True


def test_a_disabled_account_is_out_at_once_and_stays_out_of_its_old_sessions(
    admin: Person, user: Person
) -> None:
    assert user.is_logged_in()

    disabled = admin.patch(user.path, {"is_active": False})
    outside = user.is_logged_in()
    admin.patch(user.path, {"is_active": True})

    assert disabled.json["data"]["is_active"] is False
    assert outside is False
    assert user.is_logged_in() is False


@pytest.mark.parametrize("method", ["PATCH", "DELETE", "PUT"])
def test_a_stale_tag_is_refused_and_changes_nothing(
    boss: Person, user: Person, method: str
) -> None:
    stale = boss.get(user.path).headers["ETag"]
    boss.patch(user.path, {"full_name": "newer"})
    path, body = {
        "PATCH": (user.path, {"full_name": "older"}),
        "DELETE": (user.path, None),
        "PUT": (f"{user.path}/roles", {"roles": ["ADMIN"]}),
    }[method]

    for tag in (stale, f"W/{boss.get(user.path).headers['ETag']}", '"nonsense"'):
        response = boss.call(method, path, json=body, headers={"If-Match": tag})
        assert (response.status_code, response.json["error"]["code"]) == (
            412,
            "precondition_failed",
        )

    data = boss.get(user.path).json["data"]
    assert (data["full_name"], data["roles"]) == ("newer", ["USER"])


@pytest.mark.parametrize("tag", ["current", "*"])
def test_a_fresh_tag_lets_the_change_through(boss: Person, user: Person, tag: str) -> None:
    current = boss.get(user.path).headers["ETag"]

    response = boss.patch(
        user.path,
        {"full_name": "A"},
        headers={"If-Match": current if tag == "current" else tag},
    )

    assert response.status_code == 200


def test_a_change_of_roles_makes_a_tag_stale(boss: Person, user: Person) -> None:
    tag = boss.get(user.path).headers["ETag"]

    boss.put(f"{user.path}/roles", {"roles": ["ADMIN"]})

    response = boss.patch(user.path, {"full_name": "A"}, headers={"If-Match": tag})
    assert response.status_code == 412


def test_a_stranger_learns_that_they_may_not_before_whether_the_tag_is_stale(
    admin: Person, boss: Person
) -> None:
    response = admin.patch(boss.path, {"full_name": "A"}, headers={"If-Match": '"0"'})

    assert response.status_code == 403


# --- Deleting and restoring -----------------------------------------------------------------------


def test_a_deleted_account_is_gone_everywhere(admin: Person, user: Person, row: Row) -> None:
    response = admin.delete(user.path)

    assert (response.status_code, response.data) == (204, b"")
    assert row(user.id).is_deleted
    assert admin.get(user.path).status_code == 404
    assert admin.delete(user.path).status_code == 404
    assert admin.patch(user.path, {"full_name": "A"}).status_code == 404
    assert admin.get("/users").json["meta"]["pagination"]["total"] == 1
    assert not user.is_logged_in()


def test_a_restored_account_is_back_but_its_sessions_are_not(admin: Person, user: Person) -> None:
    before = admin.get(user.path).json["data"]
    admin.delete(user.path)

    response = admin.post(f"{user.path}/restore")

    assert response.status_code == 200
    same = {key: value for key, value in response.json["data"].items() if key != "updated_at"}
    assert same == {key: value for key, value in before.items() if key != "updated_at"}
    assert admin.get(user.path).headers["ETag"] == response.headers["ETag"]
    assert not user.is_logged_in()


def test_only_a_deleted_account_can_be_restored(admin: Person, user: Person) -> None:
    refused = admin.post(f"{user.path}/restore")

    assert refused.status_code == 409
    assert list(refused.json["error"]["details"]["json"]) == ["id"]
    assert admin.post(f"/users/{uuid7()}/restore").status_code == 404


def test_a_deleted_account_above_is_not_restored(
    admin: Person, boss: Person, person: MakePerson
) -> None:
    second = person("SUPER_ADMIN")
    boss.delete(second.path)

    assert admin.post(f"{second.path}/restore").status_code == 403
    assert boss.post(f"{second.path}/restore").status_code == 200


# --- Who may --------------------------------------------------------------------------------------

CALLS = [
    ("GET", "/users", None, "users:read"),
    ("POST", "/users", {"email": "x@example.org"}, "users:write"),
    ("GET", "/users/{id}", None, "users:read"),
    ("PATCH", "/users/{id}", {"full_name": "x"}, "users:write"),
    ("DELETE", "/users/{id}", None, "users:write"),
    ("POST", "/users/{id}/restore", None, "users:write"),
    ("PUT", "/users/{id}/roles", {"roles": ["USER"]}, "roles:write"),
    ("GET", "/roles", None, "roles:write"),
    ("POST", "/roles", {"name": "EXTRA"}, "roles:write"),
    ("PATCH", "/roles/SUPPORT", {"description": "x"}, "roles:write"),
    ("DELETE", "/roles/SUPPORT", None, "roles:write"),
]


@pytest.mark.parametrize(("method", "path", "body", "permission"), CALLS)
def test_each_call_needs_exactly_its_permission(
    app: Flask, person: MakePerson, make_role: Callable[..., str],
    method: str, path: str, body: Any, permission: str,
) -> None:  # fmt: skip
    everything = {"users:read", "users:write", "users:verify", "roles:write", "jobs:write"}
    make_role("SUPPORT")
    target = person()
    path = path.format(id=target.id)
    if path.endswith("restore"):
        person("SUPER_ADMIN").delete(target.path)
    lacking = person(make_role("LACKING", *everything - {permission}))
    having = person(make_role("HAVING", permission))

    anonymous = app.test_client().open(f"/api/v1{path}", method=method, json=body)
    statuses = [who.call(method, path, json=body).status_code for who in (lacking, having)]

    assert anonymous.status_code == 401
    assert statuses[0] == 403
    assert statuses[1] in (200, 201, 204)


ACTIONS: dict[str, Callable[[Person, Person], Any]] = {
    "change": lambda actor, target: actor.patch(target.path, {"full_name": "x"}),
    "disable": lambda actor, target: actor.patch(target.path, {"is_active": False}),
    "move": lambda actor, target: actor.patch(target.path, {"email": "thief@example.org"}),
    "delete": lambda actor, target: actor.delete(target.path),
    "assign": lambda actor, target: actor.put(f"{target.path}/roles", {"roles": ["USER"]}),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("target_roles", [["ADMIN"], ["ADMIN", "STAFF"], ["SUPER_ADMIN"]], ids=str)
def test_accounts_with_equal_or_higher_rights_are_out_of_reach(
    person: MakePerson, make_role: Callable[..., str], row: Row,
    target_roles: list[str], action: str,
) -> None:  # fmt: skip
    make_role("STAFF", "roles:write", "users:write")
    actors = {"ADMIN+STAFF": person("ADMIN", "STAFF"), "ADMIN": person("ADMIN")}
    person("SUPER_ADMIN")
    target = person(*target_roles)
    before = row(target.id)

    for name, actor in actors.items():
        if (name, target_roles) == ("ADMIN+STAFF", ["ADMIN"]):
            continue  # that one is below
        assert ACTIONS[action](actor, target).status_code == 403, name

    after = row(target.id)
    assert (after.version, after.email, after.roles) == (before.version, before.email, before.roles)


@pytest.mark.parametrize("action", ACTIONS)
def test_an_account_below_is_within_reach(
    person: MakePerson, make_role: Callable[..., str], action: str
) -> None:
    make_role("STAFF", "roles:write", "users:write")

    response = ACTIONS[action](person("ADMIN", "STAFF"), person("ADMIN"))

    assert response.status_code in (200, 204)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_super_admin_may_act_on_another(boss: Person, person: MakePerson, action: str) -> None:
    assert ACTIONS[action](boss, person("SUPER_ADMIN")).status_code in (200, 204)


@pytest.mark.parametrize("action", ACTIONS)
def test_nobody_acts_on_their_own_account_here(
    person: MakePerson, make_role: Callable[..., str], action: str
) -> None:
    make_role("STAFF", "roles:write", "users:write")
    person("SUPER_ADMIN")

    for me in (person("STAFF"), person("ADMIN", "STAFF"), person("SUPER_ADMIN")):
        response = ACTIONS[action](me, me)
        assert response.status_code == 403
        assert response.json["message"] == (
            "Nobody changes their own roles."
            if action == "assign"
            else "Nobody changes their own account here: use /auth/me."
        )


def test_what_the_application_grants_to_user_does_not_shield_a_user(
    app: Flask, admin: Person, boss: Person, user: Person
) -> None:
    boss.patch("/roles/USER", {"permissions": ["mail:send", "users:verify"]})

    assert admin.patch(user.path, {"full_name": "A"}).status_code == 200
    assert admin.post("/users", {"email": "new@example.org"}).status_code == 201


# --- The last SUPER_ADMIN -------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["disable", "delete", "assign"])
def test_the_last_active_super_admin_stays(
    boss: Person, person: MakePerson, row: Row, action: str
) -> None:
    person("SUPER_ADMIN", is_active=False)
    gone = person("SUPER_ADMIN")
    boss.delete(gone.path)

    response = ACTIONS[action](boss, boss)

    assert response.status_code == 409
    assert "last active SUPER_ADMIN" in response.json["message"]
    field = "is_active" if action == "disable" else "roles"
    assert list(response.json["error"]["details"]["json"]) == [field]
    stored = row(boss.id)
    assert (stored.is_active, stored.is_deleted, stored.roles) == (True, False, ["SUPER_ADMIN"])
    assert boss.is_logged_in()


def test_a_super_admin_who_is_disabled_already_is_not_the_last_one(
    boss: Person, person: MakePerson
) -> None:
    disabled = person("SUPER_ADMIN", is_active=False)

    assert boss.delete(disabled.path).status_code == 204


def test_somebody_below_learns_nothing_about_the_last_super_admin(
    admin: Person, boss: Person
) -> None:
    assert admin.delete(boss.path).status_code == 403


# --- Roles of an account --------------------------------------------------------------------------


def test_new_roles_count_from_the_next_request_of_the_same_session(
    boss: Person, user: Person, row: Row
) -> None:
    before = user.get("/users").status_code

    response = boss.put(f"{user.path}/roles", {"roles": ["USER", "ADMIN"]})
    during = user.get("/users").status_code
    boss.put(f"{user.path}/roles", {"roles": ["USER"]})
    after = user.get("/users").status_code

    assert response.json["data"]["roles"] == ["ADMIN", "USER"]
    assert (before, during, after) == (403, 200, 403)
    assert row(user.id).updated_by == boss.id


@pytest.mark.parametrize(
    "body",
    [{}, {"roles": []}, {"roles": "ADMIN"}, {"roles": {"ADMIN": 1}}, {"roles": ["PIRATE"]},
     {"roles": ["admin"]}, {"roles": [["ADMIN"]]}, {"roles": ["ADMIN"], "role": "ADMIN"}],
    ids=str,
)  # fmt: skip
def test_what_is_no_list_of_known_roles_is_refused(
    boss: Person, user: Person, body: dict[str, Any]
) -> None:
    assert boss.put(f"{user.path}/roles", body).status_code == 422


@pytest.mark.parametrize("role", ["ADMIN", "SUPER_ADMIN", "MAILER"])
def test_nobody_gives_or_takes_a_role_with_rights_they_lack(
    person: MakePerson, make_role: Callable[..., str], row: Row, role: str
) -> None:
    make_role("STAFF", "roles:write", "users:read")
    make_role("MAILER", "mail:send")
    person("SUPER_ADMIN")
    staffer, target, holder = person("STAFF"), person(), person(role)

    given = staffer.put(f"{target.path}/roles", {"roles": ["USER", role]})
    taken = staffer.put(f"{holder.path}/roles", {"roles": ["USER"]})

    assert (given.status_code, taken.status_code) == (403, 403)
    assert (row(target.id).roles, row(holder.id).roles) == (["USER"], [role])


def test_a_role_of_equal_rights_can_be_given(
    person: MakePerson, make_role: Callable[..., str]
) -> None:
    make_role("STAFF", "roles:write", "users:read")
    staffer, target = person("STAFF"), person()

    response = staffer.put(f"{target.path}/roles", {"roles": ["STAFF"]})

    assert response.json["data"]["roles"] == ["STAFF"]
    # And from then on that account is an equal.
    assert staffer.put(f"{target.path}/roles", {"roles": ["USER"]}).status_code == 403
