"""Where settings come from, which values they take, and what production refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from flask import Flask

from ghost import config as config_module
from ghost.config import Config, ConfigError, current_config, get_config, set_config
from ghost.config_schedules import ScheduleSetting
from ghost.config_sections import LISTS, SECTIONS, settings
from ghost.config_sources import SHORT_NAMES
from ghost.config_values import mask_url

pytestmark = pytest.mark.unit

STRONG = "u8Rz3kQv0Lx7Yt2Wn5Bc9Md4Fg6Hj1Ps"
OTHER_STRONG = "Zq4Wn8Ke2Rv6Ty0Ui3Op7As1Df5Gh9Jk"
PRODUCTION = {
    "GHOST_ENV": "production",
    "SECRET_KEY": STRONG,
    "JWT_SECRET_KEY": OTHER_STRONG,
    "DATABASE_URL": "postgresql://ghost:pw@db/ghost",
    "REDIS_URL": "redis://cache:6379/0",
    "MAIL_URL": "smtp://mailer:pw@mx.example.com:587?tls=starttls",
    "GHOST_APP__PUBLIC_URL": "https://api.example.com",
}


@pytest.fixture
def load(tmp_path):
    """Load a configuration from a project's folder of its own: no .env, no files yet."""

    def load(overrides=None, *, env=None, **files):
        for name, text in files.items():
            name = {"dotenv": ".env"}.get(name, name.replace("_", "."))
            (tmp_path / name).write_text(text)
        return Config.load(overrides, root=tmp_path, environ=env or {})

    return load


@pytest.fixture
def mistakes(load):
    """Load a configuration that must be refused and return the lines that say why."""

    def mistakes(*args, **kwargs):
        with pytest.raises(ConfigError) as caught:
            load(*args, **kwargs)
        assert all("\n" not in line for line in caught.value.mistakes)
        return caught.value.mistakes

    return mistakes


# Sources


def test_every_key_has_a_default_that_works_in_development(load, tmp_path):
    config = load()

    assert (config.env, config.is_development, config.is_production) == ("development", True, False)
    assert config.database.url == f"sqlite:///{tmp_path}/instance/ghost.db"
    assert (config.database.pool_size, config.database.max_overflow) == (10, 20)
    assert config.app.public_url == "http://127.0.0.1:8080"
    assert config.logging.dir == tmp_path / "instance/logs"
    assert config.logging.format == "console"
    assert config.redis.url is None
    assert config.source("database.url") == "default"


def test_loading_writes_nothing(load, tmp_path):
    load()

    assert list(tmp_path.iterdir()) == []


SOURCES = [
    ("default", {}, {}, {}),
    ("config.json", {}, {}, {"config_json": '{"app": {"name": "json"}}'}),
    ("config.yaml", {}, {}, {"config_yaml": "app: {name: yaml}"}),
    (".env GHOST_APP__NAME", {}, {}, {"dotenv": "GHOST_APP__NAME=dotenv"}),
    ("environment GHOST_APP__NAME", {}, {"GHOST_APP__NAME": "environment"}, {}),
    ("program", {"app": {"name": "program"}}, {}, {}),
]


@pytest.mark.parametrize("strongest", range(len(SOURCES)), ids=[s[0] for s in SOURCES])
def test_the_strongest_source_wins(load, strongest):
    overrides, env, files = {}, {}, {}
    for _, more_overrides, more_env, more_files in SOURCES[: strongest + 1]:
        overrides, env, files = overrides | more_overrides, env | more_env, files | more_files

    config = load(overrides, env=env, **files)

    expected = SOURCES[strongest][0]
    assert config.source("app.name") == expected
    assert config.app.name == expected.split()[0].removeprefix("config.").replace(
        "default", "Ghost"
    ).replace(".env", "dotenv")


def test_sources_are_merged_key_by_key(load):
    config = load(
        {"database": {"pool_size": 3}},
        env={"GHOST_DATABASE__MAX_OVERFLOW": "4"},
        config_yaml="database: {pool_size: 1, pool_timeout: 5}",
    )

    assert config.database.pool_size == 3
    assert config.database.max_overflow == 4
    assert config.database.pool_timeout == 5.0


@pytest.mark.parametrize("place", ["environment", "dotenv"])
def test_database_url_beats_every_other_word_on_the_database(load, place):
    word = "postgresql://u@short/db"
    env = {"GHOST_DATABASE__URL": "postgresql://u@long/db"}
    files = {"config_yaml": "database: {url: 'postgresql://u@file/db'}"}
    if place == "environment":
        env["DATABASE_URL"] = word
    else:
        files["dotenv"] = f"DATABASE_URL={word}"

    config = load(env=env, **files)

    assert config.database.url == "postgresql+psycopg2://u@short/db"


def test_the_program_stays_above_database_url(load):
    config = load(
        {"database": {"url": "sqlite:///:memory:"}}, env={"DATABASE_URL": "postgres://h/d"}
    )

    assert config.database.url == "sqlite:///:memory:"
    assert config.source("database.url") == "program"


SHORT_VALUES = {
    "DATABASE_URL": ("postgres://u:p@h/d", "database.url", "postgresql+psycopg2://u:p@h/d"),
    "REDIS_URL": ("redis://h/1", "redis.url", "redis://h/1"),
    "JWT_SECRET_KEY": ("12345", "auth.jwt_secret_key", "12345"),
    "SECRET_KEY": ("null", "app.secret_key", None),
    "LOG_LEVEL": ("debug", "logging.level", "DEBUG"),
    "API_HOST": ("0.0.0.0", "app.host", "0.0.0.0"),
    "API_PORT": ("9000", "app.port", 9000),
    "GHOST_ENV": ("testing", "app.env", "testing"),
    "MAIL_URL": ("smtps://h", "mail.url", "smtps://h"),
    "STORAGE_URL": ("s3://bucket/a", "storage.url", "s3://bucket/a"),
}


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_the_short_names_are_known(load, name):
    text, key, value = SHORT_VALUES[name]
    section, _, field = key.partition(".")

    config = load(env={name: text})

    assert getattr(config[section], field) == value
    assert config.source(key) == f"environment {name}"


def test_a_name_with_control_characters_is_shown_without_them(mistakes, load):
    [line] = mistakes(dotenv="GHOST_MAIL__\x1b[31m=x")
    config = load(env={"GHOST_SHOP__\x07": "x"}, dotenv="")

    assert line.isprintable()
    assert all(row.name.isprintable() and row.source.isprintable() for row in config.rows())


def test_a_short_name_beats_the_long_one_of_the_same_source(load):
    config = load(env={"LOG_LEVEL": "ERROR", "GHOST_LOGGING__LEVEL": "DEBUG"})

    assert config.logging.level == "ERROR"


def test_dotenv_never_overrides_a_variable_that_is_set(load):
    config = load(env={"GHOST_LOGGING__LEVEL": "ERROR"}, dotenv="LOG_LEVEL=DEBUG")

    assert config.logging.level == "ERROR"


def test_a_variable_that_flask_took_from_dotenv_is_dotenvs_word(load):
    # What `flask` leaves behind: both variables in the environment, one of them from .env.
    env = {"GHOST_LOGGING__LEVEL": "ERROR", "LOG_LEVEL": "DEBUG"}

    config = load(env=env, dotenv="LOG_LEVEL=DEBUG")

    assert config.logging.level == "ERROR"


def test_an_empty_variable_leaves_out_what_may_be_left_out(load):
    config = load(env={"REDIS_URL": ""}, config_yaml="redis: {url: 'redis://h/0'}")

    assert config.redis.url is None


def test_ghost_config_names_another_file(load, tmp_path):
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/live.yml").write_text("app: {name: Live}")

    config = load(env={"GHOST_CONFIG": "deploy/live.yml"}, config_yaml="app: {name: Other}")

    assert config.app.name == "Live"
    assert config.source("app.name") == "deploy/live.yml"


def test_files_refer_to_variables(load):
    config = load(
        env={"NAME": "Shop", "EMPTY": ""},
        dotenv="POOL=7\n",
        config_yaml="""
            app: {name: "${NAME} of $${NAME}"}
            database: {pool_size: "${POOL}", max_overflow: "${NOT_SET:-9}", echo: "${EMPTY:-true}"}
            cors: {origins: ["https://${HOST:-example.com}"]}
        """,
    )

    assert config.app.name == "Shop of ${NAME}"
    assert (config.database.pool_size, config.database.max_overflow) == (7, 9)
    assert config.database.echo is True
    assert config.cors.origins == ["https://example.com"]


def test_a_reference_is_not_read_when_something_stronger_speaks(load):
    config = load(env={"API_PORT": "1"}, config_yaml="app: {port: '${NOT_SET}'}")

    assert config.app.port == 1


def test_the_project_folder_is_the_nearest_with_a_wsgi_file(tmp_path, monkeypatch):
    (tmp_path / "wsgi.py").touch()
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")

    assert Config.load(environ={}).root == tmp_path
    assert Config.load(environ={"GHOST_ROOT": str(tmp_path / "a")}).root == tmp_path / "a"
    assert Config.load(root=tmp_path / "a/b", environ={}).instance == tmp_path / "a/b/instance"


RESOLVED = {
    "database.url": [
        ("sqlite:///instance/ghost.db", "sqlite:///{root}/instance/ghost.db"),
        ("sqlite:////var/ghost.db", "sqlite:////var/ghost.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///a.db?timeout=5", "sqlite:///{root}/a.db?timeout=5"),
        ("postgres://u:p%40@h/d", "postgresql+psycopg2://u:p%40@h/d"),
        ("postgresql:///d?host=/run/pg", "postgresql+psycopg2:///d?host=/run/pg"),
    ],
    "redis.url": [
        ("unix://instance/r.sock?db=0", "unix://{root}/instance/r.sock?db=0"),
        ("unix:///run/r.sock", "unix:///run/r.sock"),
        ("rediss://:pw@h:6380/2", "rediss://:pw@h:6380/2"),
    ],
    "mail.url": [
        ("file://instance/mail", "file://{root}/instance/mail"),
        ("file:///var/mail", "file:///var/mail"),
        ("console://", "console://"),
        ("smtps://bücher.example", "smtps://bücher.example"),
        ("ses://eu-west-1", "ses://eu-west-1"),
        (
            "ses://KEY:a%2Fb@us-gov-west-1?configuration_set=a",
            "ses://KEY:a%2Fb@us-gov-west-1?configuration_set=a",
        ),
        ("sendgrid://SG.a-b_c.d@", "sendgrid://SG.a-b_c.d@"),
        ("sendgrid://SG.a@api.eu.sendgrid.com", "sendgrid://SG.a@api.eu.sendgrid.com"),
        (
            "sendgrid://k@?endpoint=http://127.0.0.1:8025",
            "sendgrid://k@?endpoint=http://127.0.0.1:8025",
        ),
        ("smtp://u:p@localhost:2525", "smtp://u:p@localhost:2525"),
    ],
    "ratelimit.storage": [
        ("memory://", "memory://"),
        ("redis+unix:///run/r.sock", "redis+unix:///run/r.sock"),
    ],
}


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [(key, *pair) for key, pairs in RESOLVED.items() for pair in pairs],
)
def test_urls_are_resolved_against_the_project_folder(load, tmp_path, key, given, expected):
    section, _, name = key.partition(".")

    config = load({section: {name: given}})

    assert getattr(config[section], name) == expected.format(root=tmp_path)


# Sections of the application's own


def test_an_unknown_section_belongs_to_the_application(load):
    config = load(
        {"shop": {"currency": "EUR"}},
        env={"GHOST_SHOP__TAX": "19", "GHOST_SHOP__BANK__BIC": "X"},
        config_yaml="shop: {currency: USD, tax: 7, bank: {iban: Y, bic: Z}}",
    )

    assert config["shop"] == {"currency": "EUR", "tax": 19, "bank": {"bic": "X", "iban": "Y"}}
    assert config.source("shop.tax") == "environment GHOST_SHOP__TAX"
    assert "shop" in config
    assert config.get("nothing", 1) == 1


def test_a_value_may_replace_a_mapping_and_a_mapping_a_value(load):
    config = load({"shop": {"a": 1, "b": {"c": 2}}}, config_yaml="shop: {a: {deep: 3}, b: 4}")

    assert config["shop"] == {"a": 1, "b": {"c": 2}}


def test_a_section_that_nobody_names_is_a_key_error(load):
    with pytest.raises(KeyError):
        load()["shop"]


def test_a_configuration_does_not_change(load):
    config = load({"shop": {"a": 1}})

    for change in (
        lambda: setattr(config, "env", "production"),
        lambda: setattr(config.app, "name", "x"),
        lambda: config["shop"].update(a=2),
    ):
        with pytest.raises((AttributeError, TypeError)):
            change()


# Mistakes


def test_all_mistakes_are_named_at_once(mistakes):
    lines = mistakes(
        {"cors": {"origins": ["https://a.example/"]}},
        env={"GHOST_DATABASE__POOL_SIZE": "many", "GHOST_ENVIRONMENT": "production"},
        dotenv="LOG_LEVEL=loud\nnot a line\n",
        config_yaml="databse: {url: x}\napp: {prot: 1, max_body: '5'}",
        config_json='{"app": {"port": 1, "port": 2}}',
    )

    assert lines == [
        ".env: line 2: expected NAME=value",
        "GHOST_ENVIRONMENT (environment): unknown variable; did you mean GHOST_ENV?",
        "config.json: port stands there twice",
        "databse.url (config.yaml): unknown section; did you mean database?",
        "app.prot (config.yaml): unknown key; did you mean port?",
        "app.max_body (config.yaml): expected a whole number of bytes from 1024 to 1073741824, "
        "got the text '5'",
        "database.pool_size (environment GHOST_DATABASE__POOL_SIZE): expected a whole number "
        "from 1 to 1000, got the text 'many'",
        "cors.origins (program): expected entry 1 to be an origin as browsers send it, like "
        "https://app.example.com (no path, no slash at the end), got the text "
        "'https://a.example/'",
        "logging.level (.env LOG_LEVEL): expected one of TRACE, DEBUG, INFO, WARNING, ERROR, "
        "CRITICAL, got the text 'loud'",
    ]


UNKNOWN = {
    "ratelimt": "did you mean ratelimit?",
    "rate-limit": "did you mean ratelimit?",
    "Database": "did you mean database?",
    "mial": "did you mean mail?",
    "job": "did you mean jobs?",
    "model": "did you mean models?",
    "storag": "did you mean storage?",
    "websockets": "did you mean websocket?",
}


@pytest.mark.parametrize("section", UNKNOWN)
def test_a_section_that_resembles_a_known_one_is_a_mistake(mistakes, section):
    [line] = mistakes(config_json=json.dumps({section: {"a": 1}}))

    assert line.startswith(f"{section}.a (config.json): ")
    assert line.endswith(UNKNOWN[section])


@pytest.mark.parametrize(
    "section", ["shop", "payments", "maps", "api", "core", "search", "billing"]
)
def test_a_section_that_resembles_none_is_the_applications(load, section):
    assert load({section: {"a": 1}})[section] == {"a": 1}


UNKNOWN_KEYS = {
    "database.poolsize": "did you mean pool_size?",
    "app.max-body": "did you mean max_body?",
    "logging.lvl": "did you mean level?",
    "app.pool_size": "did you mean database.pool_size?",
    "redis.colour": "unknown key",
}


@pytest.mark.parametrize("key", UNKNOWN_KEYS)
def test_an_unknown_key_is_a_mistake(mistakes, key):
    section, _, name = key.partition(".")

    [line] = mistakes({section: {name: 1}})

    assert line.startswith(f"{key} (program): unknown key")
    assert line.endswith(UNKNOWN_KEYS[key])


VARIABLES = {
    "GHOST_DATABASE_URL": "did you mean GHOST_DATABASE__URL?",
    "GHOST_ENVIRONMENT": "did you mean GHOST_ENV?",
    "GHOST_BLUEPRINT": "did you mean GHOST_BLUEPRINTS?",
    "GHOST_DATABASE__": "expected a name like GHOST_<SECTION>__<KEY>",
    "GHOST___URL": "expected a name like GHOST_<SECTION>__<KEY>",
    "GHOST_AUTH__JWT_PUBLIC_KEYS__A": "expected one key in a section, its value in JSON",
    "GHOST_DATABSE__URL": "did you mean database?",
    "GHOST_DATABASE__URI": "did you mean url?",
    "GHOST_MODELS__A": "expected a list, got a mapping",
}


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_that_ghost_cannot_read_is_a_mistake(mistakes, name):
    [line] = mistakes(env={name: "x"})

    assert name in line
    assert line.endswith(VARIABLES[name])


def test_other_variables_of_the_same_beginning_are_left_alone(load):
    load(env={"GHOST_TEST_DATABASE_URL": "x", "GHOSTTY": "y", "GHOST_": "z"})


FILES = {
    "broken YAML": ("config_yaml", "app: {name: x", "line 1, column 14: not valid YAML"),
    "a tab in YAML": ("config_yaml", "app:\n\tname: x", "line 2, column 1: not valid YAML"),
    "an object in YAML": ("config_yaml", "app: !!python/object:os.x {}", "not valid YAML"),
    "two documents": ("config_yaml", "app: {}\n---\napp: {}", "not valid YAML"),
    "a list in YAML": ("config_yaml", "- app", "expected a mapping of sections, got a list"),
    "a text in YAML": ("config_yaml", "app", "expected a mapping of sections"),
    "a key twice in YAML": ("config_yaml", "app: {name: a, name: b}", "line 1: name stands there"),
    "a section twice": ("config_yaml", "app: {}\napp: {}", "line 2: app stands there twice"),
    "a mapping as a key": ("config_yaml", "? {a: 1}\n: 2", "not valid YAML"),
    "a loop": ("config_yaml", "shop: &a {b: *a}", "levels deep"),
    "a bomb": (
        "config_yaml",
        "shop:\n  a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"  a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
        "at most 10000 entries",
    ),
    "a deep YAML": ("config_yaml", "shop: " + "[" * 5000 + "]" * 5000, "too deep"),
    "a deep JSON": ("config_json", '{"a": ' * 50_000, "too deep"),
    "a long number": ("config_yaml", f"shop: {{a: {'9' * 5000}}}", "too big"),
    "a control character": ("config_yaml", "app: {name: \x01}", "not valid YAML"),
    "broken JSON": ("config_json", '{"app": }', "line 1, column 9: not valid JSON"),
    "a key twice in JSON": ("config_json", '{"app": {"port": 1, "port": 2}}', "port stands there"),
    "NaN": ("config_json", '{"shop": {"a": NaN}}', "no number"),
    "a list in JSON": ("config_json", "[]", "expected a mapping of sections"),
    "a section without keys": ("config_yaml", "app: 5", "app (config.yaml): expected a section"),
    "a key outside a section": ("config_yaml", "port: 5", "did you mean app.port?"),
    "a number as a section": ("config_yaml", "5: {a: 1}", "expected a name, got the number 5"),
    "a number as a key": ("config_yaml", "app: {5: a}", "app.5 (config.yaml): unknown key"),
    "a broken reference": ("config_yaml", "app: {name: '${1}'}", "expected ${NAME} or"),
    "an open reference": ("config_yaml", "app: {name: '${A'}", "expected ${NAME} or"),
    "a nested reference": ("config_yaml", "app: {name: '${A:-${B}}'}", "expected ${NAME} or"),
    "a variable that is not set": (
        "config_yaml",
        "app: {name: '${A}'}",
        "the variable A to be set",
    ),
    "the same in an own section": ("config_yaml", "s: {a: ['${A}']}", "the variable A to be set"),
    "a .env line without =": ("dotenv", "DATABASE_URL", ".env: line 1: DATABASE_URL has no value"),
    "a .env word twice": ("dotenv", "REDIS_URL=\nREDIS_URL=", "line 2: REDIS_URL is set a second"),
    "broken quotes in .env": ("dotenv", "A='b", ".env: line 1: expected NAME=value"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_broken_file_is_one_line(mistakes, case):
    name, text, expected = FILES[case]

    [line] = mistakes(**{name: text})

    assert expected in line


@pytest.mark.parametrize("name", [".env", "config.yaml", "config.json"])
def test_a_file_in_another_encoding_is_one_line(mistakes, tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff\xfeA=\xe4")

    assert mistakes() == [f"{name}: expected text in UTF-8"]


def test_a_folder_in_the_place_of_a_file_is_one_line(mistakes, tmp_path):
    (tmp_path / "config.yaml").mkdir()

    assert mistakes() == ["config.yaml: cannot be read (Is a directory)"]


def test_a_virtual_environment_called_dotenv_is_no_mistake(load, tmp_path):
    (tmp_path / ".env").mkdir()

    load()


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "app:\nmail:\n", "{}", "\ufeffapp: {}"])
def test_a_file_may_be_empty_and_so_may_its_sections(load, text):
    assert load(config_yaml=text).app.name == "Ghost"


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("missing.yaml", "expected an existing file, missing.yaml is none"),
        ("config.toml", "expected the name of a .yaml or .json file"),
        ("x" * 5000 + ".yaml", "expected an existing file"),
    ],
)
def test_ghost_config_must_name_a_file(mistakes, named, expected):
    [line] = mistakes(env={"GHOST_CONFIG": named})

    assert line.startswith("GHOST_CONFIG: ")
    assert expected in line


@pytest.mark.parametrize("root", ["/nowhere/at/all", "x" * 5000, "/dev/null"])
def test_the_project_folder_must_exist(root):
    with pytest.raises(ConfigError) as caught:
        Config.load(environ={"GHOST_ROOT": root})

    assert caught.value.mistakes == ["GHOST_ROOT: expected an existing folder"]


def test_a_syntax_mistake_does_not_repeat_what_stands_there(mistakes):
    [line] = mistakes(config_yaml="app: {secret_key: *hunter2hunter2}")

    assert "hunter2" not in line


def test_yaml_values_are_what_they_look_like(load):
    config = load(config_yaml="shop: {a: off, b: 010, c: 1:30, d: 2024-01-01, e: 5, f: 1.5, g: ~}")

    assert config["shop"] == {
        "a": "off", "b": "010", "c": "1:30", "d": "2024-01-01", "e": 5, "f": 1.5, "g": None,
    }  # fmt: skip


def test_merged_yaml_mappings_are_no_repetition(load):
    config = load(config_yaml="shop: &s {a: 1}\nother: &o {<<: *s, a: 2}\nthird: {<<: *o, a: 3}")

    assert config["third"] == {"a": 3}


VALUES = {
    "app.name": ["", " x", "x\ny", "x\x00", "\udc80", "x" * 81, 3.1, True, None, [], {}],
    "app.env": ["prod", "Production", "", None, 1],
    "app.secret_key": [12345678, "", "a\nb", [], True, "x" * 5000],
    "app.host": ["http://h", "h:80", "a b", "-a", "a..b", "", 127, "x" * 300],
    "app.port": [0, 65536, -1, "80", 80.0, True, None, 10**400, [80]],
    "app.public_url": [
        "example.com", "ftp://x", "https://", "https://u:p@h", "https://h/?q", "https://h#f",
        "https://h:99999", "https://a b", "https://[::1", "https://h:0", "javascript://x", 5, "",
    ],
    "app.trusted_hosts": ["a", ["http://a"], ["a:80"], ["*"], [""], [5], ["a", "a"]],
    "app.max_body": [0, 1023, "1 MiB", 2**31, 1e6],
    "database.url": [
        "", "x", "mysql://u@h/d", "postgresql+asyncpg://u@h/d", "sqlite:/x", "sqlite://x/y.db",
        "postgresql://h", "postgresql://h:x/d", "postgresql://h:99999/d", "postgresql://[h/d",
        "postgres:h/d", "POSTGRES://h/d", "postgresql://h/d\n", 5, None, "sqlite:///a\x00b",
    ],
    "database.pool_size": [0, -1, "5", 2.5, True, None],
    "database.pool_timeout": [0, -1, float("nan"), float("inf"), "1", True, 10**400],
    "database.echo": ["off", "no", "true", 1, 0, None, "false"],
    "redis.url": [
        "localhost:6379", "http://h", "redis://", "redis://h/x", "redis://h:0", "redis://h:x",
        "unix://", "unix:///", "redis:h", 6379, "redis+unix:///x", "memory://",
    ],
    "auth.jwt_algorithm": ["none", "HS512", "hs256", "", None],
    "auth.jwt_private_key": ["x", "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----", 5],
    "auth.jwt_public_keys": [[], "x", {"a": "x"}, {1: "x"}, {"a b": "x"}, {"": "x"}],
    "auth.jwt_previous_secret_keys": ["x", [1], [""], ["a", "a"]],
    "auth.access_token_expires": [0, -5, "900", 15.5, 10**12],
    "auth.bcrypt_rounds": [3, 19, "12"],
    "auth.password_min_length": [7, 129],
    "auth.verify_link": [
        "{public_url}/x", "{token}", "{public_url}{token!r}{token}", "{public_url}/{token:>99}",
        "{public_url}/{token.__class__}{token}", "x{public_url}/{token}", "{public_url}/{token}{",
        "javascript://x/{token}", "https://h/{token}{other}", "{public_url}/{0}{token}",
        "https:///{token}", 5,
    ],
    "ratelimit.default": ["fast", "300", "0/minute", "-1/minute", "300/fortnight", "", 300, None],
    "ratelimit.storage": ["unix:///x", "memcached://h", "redis+unix://", 5],
    "cors.origins": [
        "https://a.example", ["*"], ["null"], ["https://a.example/"], ["https://A.example"],
        ["https://*.example"], ["https://a.example:443"], ["a.example"], ["https://a b"],
        [r"https://.*\.example"], ["https://u@a.example"], ["https://a.example?x"], [None],
        ["https://ä.example"], ["https://a.example:99999"], {"a": 1},
    ],
    "mail.url": [
        "smtp://", "smtp://h?tls=maybe", "smtp://h?x=1", "smtp://h/path", "console://x", "file://",
        "ses://x", "sendgrid://key@x", "smtps://h?tls=starttls", "smtp://h:0", 5, None,
        "mailto:a@b.c", "smtp://u@h", "smtps://u:@h", "smtps://:p@h", "smtp://u:p@h?tls=none",
        "ses://", "ses://KEY@eu-west-1", "ses://:S@eu-west-1", "ses://K:a/b@eu-west-1",
        "ses://eu-west-1:443", "ses://eu-west-1/x", "ses://eu-west-1?x=1",
        "ses://eu-west-1?configuration_set=a b", "ses://eu-west-1?endpoint=http://mx.example.com:1",
        "ses://eu-west-1?endpoint=http://127.0.0.1", "sendgrid://", "sendgrid://key", "sendgrid://@",
        "sendgrid://apikey:key@", "sendgrid://k@evil.example", "sendgrid://k@evilsendgrid.com",
        "sendgrid://k@api.sendgrid.com:8443", "sendgrid://k@?x=1", "sendgrid://k@#x",
        "sendgrid://k@?endpoint=http://mx.example.com:1", "sendgrid://k@?endpoint=ftp://127.0.0.1:1",
        "sendgrid://k@?endpoint=http://u@127.0.0.1:1", "sendgrid://k@?endpoint=http://[",
        "smtps://h?ca=missing.pem", "smtps://h?ca=/dev/null", "smtps://h?ca=", "smtp://h_x.example",
    ],
    "mail.sender": ["x", "a@", "@b", "a b@c.d", "A <a@b.c>\r\nBcc: x@y.z", "a@b.c, d@e.f", "", 5],
    "mail.templates": ["missing", "", 5, "x" * 5000],
    "jobs.queues": [[], "high", ["a b"], ["a:b"], ["a", "a"], [None], ["x" * 65]],
    "jobs.modules": [["a b"], ["../x"], ["a."], ["1a"], ["a:b:c"], ["a;import os"]],
    "jobs.max_wait": [0, "300", 10**9],
    "jobs.schedules": [
        [], "x", {"a b": {"job": "x", "every": 5}}, {5: {"job": "x", "every": 5}},
        *(
            {"nightly": entry}
            for entry in (
                None, [], "x", {}, {"job": "x"}, {"every": 5}, {"job": 5, "every": 5},
                {"job": "x", "cron": "0 3 * *"}, {"job": "x", "cron": 5}, {"job": "x", "every": 0},
                {"job": "x", "every": "5"}, {"job": "x", "every": True}, {"job": "x", "every": 1.5},
                {"job": "x", "every": 10**400}, {"job": "x", "every": 5, "cron": "0 3 * * *"},
                {"job": "x", "every": 5, "timezone": "Mars/Base"},
                {"job": "x", "every": 5, "timezone": None}, {"job": "x", "every": 5, "missed": []},
                {"job": "x", "every": 5, "args": []}, {"job": "x", "every": 5, "args": {1: 2}},
                {"job": "x", "every": 5, "args": {"a": {1}}},
                {"job": "x", "every": 5, "args": {"a": "x" * 70_000}},
                {"jbo": "x", "every": 5},
            )
        ),
    ],
    "logging.level": ["LOUD", "", 10, "off"],
    "logging.format": ["xml", True],
    "logging.dir": ["", 5, "/dev/null", "a\x00b"],
    "blueprints": ["x", [5], ["a-b"]],
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key, values in VALUES.items() for value in values],
    ids=lambda value: ascii(value)[:40],
)
def test_a_wrong_value_is_one_line_that_names_key_and_source(mistakes, key, value):
    section, _, name = key.partition(".")

    [line] = mistakes({section: {name: value} if name else value})

    assert line.startswith(f"{key} (program): expected ")
    assert len(line) < 400


HOSTILE = [
    None, True, 0, -1, 10**5000, 1.5, float("nan"), float("inf"), "", " ", "\x00", "\n", "\udcff",
    "x" * 100_000, "0" * 5000, "[" * 5000, "{" * 5000, "://", "a://", "redis://[", "smtp://h:port",
    "postgresql://[::1", "sqlite:///", "${", "%s%n", "{0}", "{public_url}{token", "null", "NaN",
    "1e999", "٣", "http://[::1]:5", "file:////", "unix://@", "🦊", "http://\u2100.example",
    [], [[]], {}, {"a": {}}, [None], b"x", object(), Path("x"), {1}, ("a",),
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: ascii(type(value)))
@pytest.mark.parametrize("way", ["program", "environment"])
def test_no_value_causes_anything_but_lines(mistakes, value, way):
    overrides, env = {}, {}
    text = "9" * 5000 if value == 10**5000 else str(value)
    for section, fields in SECTIONS.items():
        for name in (field.name for field in settings(fields)):
            overrides.setdefault(section, {})[name] = value
            env[f"GHOST_{section}__{name}".upper()] = text
    lines = mistakes(overrides) if way == "program" else mistakes(env=env)

    assert all(len(line) < 500 for line in lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("False", False), ("on", True), ("no", False), ("1", True), ("0", False)],
)
def test_the_environment_says_true_and_false_in_many_ways(load, text, value):
    assert load(env={"GHOST_DATABASE__ECHO": text}).database.echo is value


@pytest.mark.parametrize("text", ['["a", "b"]', "a,b", "a , b"])
def test_the_environment_gives_a_list_as_json_or_with_commas(load, text):
    assert load(env={"GHOST_JOBS__QUEUES": text}).jobs.queues == ["a", "b"]
    assert load(env={"GHOST_MODELS": text}).models == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "value"), [("12345", "12345"), ("1e5", "1e5"), ("true", "true"), ('"x"', "x")]
)
def test_a_secret_stays_the_text_it_is(load, text, value):
    assert load(env={"GHOST_APP__SECRET_KEY": text}).app.secret_key == value


# Schedules


def test_a_schedule_says_what_runs_and_when(load):
    config = load(
        config_yaml="""
        jobs:
          schedules:
            orders.close_stale:
              job: orders.close_stale
              cron: "0 3 * * *"
              timezone: Europe/Berlin
              missed: skip
              args: {days: 30}
            beat: {job: shop.beat, every: 300}
        """
    )

    assert config.jobs.schedules == {
        "orders.close_stale": ScheduleSetting(
            "orders.close_stale", "cron 0 3 * * *", "Europe/Berlin", "skip", {"days": 30}
        ),
        "beat": ScheduleSetting("shop.beat", "every 300", "UTC", "once", {}),
    }


def test_a_mistake_in_a_schedule_names_the_schedule_and_what_was_expected(mistakes):
    [line] = mistakes({"jobs": {"schedules": {"nightly": {"job": "shop.beat", "cron": "3 h"}}}})

    assert line == (
        "jobs.schedules (program): expected nightly to be a schedule whose cron is five fields"
        " (minute, hour, day, month, weekday) like 0 3 * * *, due at some time, got the text '3 h'"
    )


# Keys for signing


def pem_pair(key):
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


KEYS = {
    "RS256": pem_pair(rsa.generate_private_key(65537, 2048)),
    "ES256": pem_pair(ec.generate_private_key(ec.SECP256R1())),
    "EdDSA": pem_pair(ed25519.Ed25519PrivateKey.generate()),
}


@pytest.mark.parametrize("algorithm", KEYS)
def test_an_algorithm_takes_its_own_keys(load, algorithm):
    private, public = KEYS[algorithm]
    auth = {"jwt_algorithm": algorithm, "jwt_public_keys": {"2024-a": public}}

    config = load({"auth": auth}, env={"GHOST_AUTH__JWT_PRIVATE_KEY": private.replace("\n", "\\n")})

    assert config.auth.jwt_private_key == private
    assert "PRIVATE" not in repr(config)


def test_keys_come_from_the_environment_as_json(load):
    private, public = KEYS["EdDSA"]
    env = {
        "GHOST_AUTH__JWT_ALGORITHM": "EdDSA",
        "GHOST_AUTH__JWT_PRIVATE_KEY": private,
        "GHOST_AUTH__JWT_PUBLIC_KEYS": json.dumps({"2025": public}),
    }

    assert load(env=env).auth.jwt_public_keys == {"2025": public}


WRONG_KEYS = {
    "none": ("RS256", None, {}, ["expected a private key", "expected a public key"]),
    "of another kind": ("EdDSA", "RS256", {"a": "EdDSA"}, ["expected a key for EdDSA"]),
    "a public one of another kind": (
        "ES256",
        "ES256",
        {"a": "RS256"},
        ["expected a key for ES256"],
    ),
}


@pytest.mark.parametrize("case", WRONG_KEYS)
def test_an_algorithm_refuses_other_keys(mistakes, case):
    algorithm, private, public, expected = WRONG_KEYS[case]
    auth = {
        "jwt_algorithm": algorithm,
        "jwt_private_key": private and KEYS[private][0],
        "jwt_public_keys": {name: KEYS[kind][1] for name, kind in public.items()},
    }

    lines = mistakes({"auth": auth})

    assert len(lines) == len(expected)
    assert all(part in line for part, line in zip(expected, lines, strict=True))


def test_the_public_half_of_the_signing_key_must_be_there(mistakes):
    other = pem_pair(ed25519.Ed25519PrivateKey.generate())[1]
    auth = {"jwt_algorithm": "EdDSA", "jwt_private_key": KEYS["EdDSA"][0]}

    [line] = mistakes({"auth": {**auth, "jwt_public_keys": {"a": other}}})

    assert "expected the public half" in line


# Production


def test_a_complete_production_configuration_is_taken(load):
    config = load(env=PRODUCTION)

    assert config.is_production
    assert config.logging.format == "json"
    assert config.logging.dir is None
    assert config.app.trusted_hosts == ["api.example.com"]
    assert config.mail.sender == "no-reply@api.example.com"


def test_production_with_nothing_set_gives_all_reasons_at_once(mistakes):
    assert mistakes(env={"GHOST_ENV": "production", "FLASK_DEBUG": "1"}) == [
        "app.secret_key: in production it must be set (SECRET_KEY)",
        "auth.jwt_secret_key: in production it must be set (JWT_SECRET_KEY)",
        "app.public_url: in production it must be set, to an https:// address",
        "database.url: in production it must not be SQLite, unless database.allow_sqlite is true",
        "redis.url: in production it must be set (REDIS_URL)",
        "mail.url: in production it must not be console:// (set MAIL_URL)",
        "FLASK_DEBUG: in production it must be off",
    ]


UNSAFE = {
    "debug in .env": ({}, {"dotenv": "FLASK_DEBUG=true"}, "FLASK_DEBUG", "be off"),
    "a short secret": ({"SECRET_KEY": "k4Jx92mQ"}, {}, "app.secret_key", "at least 32 bytes"),
    "an example": ({"JWT_SECRET_KEY": "changeme"}, {}, "auth.jwt_secret_key", "known example"),
    "a long example": (
        {"SECRET_KEY": "changeme-changeme-changeme-changeme!"}, {}, "app.secret_key", "example"
    ),
    "dev-secret": (
        {"SECRET_KEY": "dev-secret-key-dev-secret-key-dev-secret"}, {}, "app.secret_key",
        "known example",
    ),
    "one letter": ({"SECRET_KEY": "a" * 64}, {}, "app.secret_key", "known example"),
    "the same twice": ({"JWT_SECRET_KEY": STRONG}, {}, "auth.jwt_secret_key", "must differ"),
    "a previous one reused": (
        {"GHOST_AUTH__JWT_PREVIOUS_SECRET_KEYS": f'["{OTHER_STRONG}"]'}, {},
        "auth.jwt_previous_secret_keys", "must differ",
    ),
    "an empty secret": ({"SECRET_KEY": ""}, {}, "app.secret_key", "must be set"),
    "a weak health token": ({"GHOST_HEALTH__TOKEN": "admin"}, {}, "health.token", "known example"),
    "SQLite": ({"DATABASE_URL": "sqlite:///x.db"}, {}, "database.url", "not be SQLite"),
    "no Redis": ({"REDIS_URL": ""}, {}, "redis.url", "must be set"),
    "a CORS wildcard": ({"GHOST_CORS__ORIGINS": "*"}, {}, "cors.origins", "an origin"),
    "mail on the console": ({"MAIL_URL": "console://"}, {}, "mail.url", "not be console://"),
    "mail in memory": ({"MAIL_URL": "memory://"}, {}, "mail.url", "not be memory://"),
    "a mail user without a password": (
        {"MAIL_URL": "smtps://u@mx.example.com"}, {}, "mail.url", "both a user and a password"
    ),
    "a mail password in clear": (
        {"MAIL_URL": "smtp://u:hunter2@mx.example.com"}, {}, "mail.url", "?tls=starttls"
    ),
    "a mail password in clear, by choice": (
        {"MAIL_URL": "smtp://u:hunter2@mx.example.com?tls=none"}, {}, "mail.url", "?tls=starttls"
    ),
    "mail on the console as a last resort": (
        {"GHOST_MAIL__FALLBACK_URL": "console://"}, {}, "mail.fallback_url", "not be console://"
    ),
    "mail in memory as a last resort": (
        {"GHOST_MAIL__FALLBACK_URL": "memory://"}, {}, "mail.fallback_url", "not be memory://"
    ),
    "a second mail password in clear": (
        {"GHOST_MAIL__FALLBACK_URL": "smtp://u:hunter2@mx.example.com"}, {}, "mail.fallback_url",
        "?tls=starttls",
    ),
    "plain HTTP": (
        {"GHOST_APP__PUBLIC_URL": "http://example.com"}, {}, "app.public_url", "not be Secure"
    ),
    "any Host header": (
        {"GHOST_APP__TRUSTED_HOSTS": "[]"}, {}, "app.trusted_hosts", "name the hosts"
    ),
    "cheap hashes": ({"GHOST_AUTH__BCRYPT_ROUNDS": "11"}, {}, "auth.bcrypt_rounds", "at least 12"),
    "a plain link": (
        {"GHOST_AUTH__RESET_LINK": "http://example.com/{token}"}, {}, "auth.reset_link", "https://"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSAFE)
def test_production_refuses(mistakes, case):
    env, files, key, expected = UNSAFE[case]

    [line] = mistakes(env=PRODUCTION | env, **files)

    assert line.startswith(f"{key} (environment {next(iter(env))}): " if env else f"{key}: ")
    assert expected in line
    assert "hunter2" not in line
    assert not any(value in line for name, value in env.items() if name.endswith("_KEY") and value)


SAFE = {
    "SQLite that is allowed": {
        "DATABASE_URL": "sqlite:///x.db", "GHOST_DATABASE__ALLOW_SQLITE": "true",
    },
    "a loopback address": {"GHOST_APP__PUBLIC_URL": "http://127.0.0.1:8080"},
    "localhost": {"GHOST_APP__PUBLIC_URL": "http://localhost:8080"},
    "mail in a folder": {"MAIL_URL": "file:///var/mail"},
    "mail without a password": {"MAIL_URL": "smtp://mx.example.com"},
    "mail by SES": {"MAIL_URL": "ses://eu-west-1"},
    "mail by SendGrid, else by SES": {
        "MAIL_URL": "sendgrid://SG.key@", "GHOST_MAIL__FALLBACK_URL": "ses://KEY:s@eu-west-1",
    },
    "mail over TLS": {"MAIL_URL": "smtps://u:p@mx.example.com"},
    "debug off": {"FLASK_DEBUG": "0"},
    "random hex": {"SECRET_KEY": "0f1e2d3c4b5a69788796a5b4c3d2e1f0"},
}  # fmt: skip


@pytest.mark.parametrize("case", SAFE)
def test_production_takes(load, case):
    assert load(env=PRODUCTION | SAFE[case]).is_production


def test_what_production_refuses_development_takes(load):
    for env in ("development", "testing"):
        load(
            env={"GHOST_ENV": env, "SECRET_KEY": "dev", "JWT_SECRET_KEY": "dev", "FLASK_DEBUG": "1"}
        )


# What is shown


def test_no_secret_is_in_the_text_of_a_configuration(load):
    secret = "hunter2hunter2"
    config = load(
        {
            "shop": {
                "api_key": secret,
                "url": f"https://u:{secret}@h/",
                "list": [f"x://u:{secret}@h"],
            }
        },
        env={
            "SECRET_KEY": secret,
            "JWT_SECRET_KEY": secret,
            "DATABASE_URL": f"postgresql://u:{secret}@h/d?password={secret}",
            "REDIS_URL": f"redis://:{secret}@h/0",
            "MAIL_URL": f"smtp://u:a@{secret}@h",
            "GHOST_MAIL__FALLBACK_URL": f"sendgrid://{secret}@api.eu.sendgrid.com",
            "GHOST_RATELIMIT__STORAGE": f"redis://:{secret}@h/0",
            "STORAGE_URL": f"s3://key:{secret}@bucket",
            "GHOST_HEALTH__TOKEN": secret,
            "GHOST_AUTH__JWT_PREVIOUS_SECRET_KEYS": f"{secret}1,{secret}2",
        },
    )

    shown = [repr(config), repr(config.database), str(config.auth), str(list(config.rows()))]

    assert all(secret not in text for text in shown)
    assert "postgresql+psycopg2://u:***@h" in shown[0]


@pytest.mark.parametrize(
    "key", ["database.url", "redis.url", "mail.url", "storage.url", "app.secret_key"]
)
def test_a_wrong_secret_is_not_repeated(mistakes, key):
    section, _, name = key.partition(".")

    [line] = mistakes({section: {name: "bad://u:hunter2@h\n"}})

    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sendgrid://SG.key@", "sendgrid://***@"),
        ("sendgrid://SG.key@api.eu.sendgrid.com", "sendgrid://***@api.eu.sendgrid.com"),
        ("sendgrid://SG.key", "sendgrid://***@"),
        ("SendGrid://SG.key@?x=1", "SendGrid://***@?x=1"),
        ("ses://KEY:secret@eu-west-1", "ses://KEY:***@eu-west-1"),
        ("ses://KEY:se/cr+et@eu-west-1", "ses://KEY:***@eu-west-1"),
        ("ses://eu-west-1", "ses://eu-west-1"),
        ("smtp://u:p@h", "smtp://u:***@h"),
    ],
)
def test_a_mail_url_is_shown_without_its_secret(url, shown):
    assert mask_url(url) == shown


# Files


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("file:///srv/files", "file:///srv/files"),
        ("s3://bucket", "s3://bucket"),
        ("s3://KEY:se%2Fcret@bucket/a/b?endpoint=http://h:9000&region=eu-west-1", None),
        ("az://account:a2V5@container/files", "az://account:***@container/files"),
        ("gs://bucket/files", "gs://bucket/files"),
    ],
)
def test_a_place_for_files_is_taken_and_shown_without_its_secret(load, url, shown):
    config = load(env={"STORAGE_URL": url})

    assert config.storage.url == url
    secret_free = shown or url.replace("se%2Fcret", "***")
    assert f"url={secret_free!r}" in repr(config.storage)


def test_the_folder_of_files_is_taken_from_the_projects_root(load, tmp_path):
    assert load().storage.url == f"file://{tmp_path}/instance/uploads"
    assert load(env={"STORAGE_URL": "file://a/b"}).storage.url == f"file://{tmp_path}/a/b"


@pytest.mark.parametrize(
    "url",
    [
        "file://", "file:///", "ftp://h/a", "s3://", "s3:///a", "s3://B!", "s3://b/../c",
        "s3://bucket/a b", "s3://key@bucket", "s3://:secret@bucket", "gs://key:secret@bucket",
        "s3://bucket?endpoint=ftp://h", "s3://bucket?a=b", "s3://bucket?region=a&region=b",
        "az://bucket?region=eu", "s3://bucket#a", "s3://bucket:9000/a", "file:///a?b=c", "bucket",
    ],
)  # fmt: skip
def test_what_is_no_place_for_files_is_refused(mistakes, url):
    [line] = mistakes(env={"STORAGE_URL": url})

    assert line.startswith("storage.url (environment STORAGE_URL): expected ")


@pytest.mark.parametrize(
    "name", ["text/html", "image/svg+xml", "application/xml", "text/javascript", "text/xml"]
)
def test_a_type_that_browsers_run_cannot_be_allowed(mistakes, name):
    [line] = mistakes({"storage": {"allowed_types": ["image/png", name]}})

    assert "entry 2" in line
    assert "browsers run" in line


@pytest.mark.parametrize("name", ["png", "*/*", "image/", "Image/PNG", "image/png;a=b"])
def test_what_is_no_type_of_content_is_refused(mistakes, name):
    assert mistakes({"storage": {"allowed_types": [name]}})


def test_variants_are_ghosts_own_and_those_that_are_named_over_them(load):
    variants = load(
        {"storage": {"variants": {"hero": {"width": 1920, "height": 600, "fit": "cover"},
                                  "small": 400}}}
    ).storage.variants  # fmt: skip

    assert list(variants) == ["thumb", "small", "medium", "large", "hero"]
    assert (variants["hero"].width, variants["hero"].height) == (1920, 600)
    assert (variants["small"].width, variants["small"].fit) == (400, "inside")
    assert (variants["thumb"].width, variants["thumb"].fit) == (128, "cover")


@pytest.mark.parametrize(
    "entry",
    [
        0, 9000, "x", None, {}, {"width": 5}, {"width": 5, "height": 5, "fit": "fill"},
        {"width": 5, "height": 5, "quality": 101}, {"width": True, "height": 5},
        {"width": 5, "height": 5, "depth": 5},
    ],
)  # fmt: skip
def test_a_variant_that_is_none_is_refused(mistakes, entry):
    [line] = mistakes({"storage": {"variants": {"hero": entry}}})

    assert "hero" in line


# The configuration of the process


def test_without_a_configuration_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(config_module, "_current", [])

    with pytest.raises(RuntimeError, match=r"call create_app\(\)"):
        get_config()


def test_the_current_configuration_is_the_applications_then_the_processs(load, monkeypatch):
    monkeypatch.setattr(config_module, "_current", [])
    ours, theirs = load({"app": {"name": "ours"}}), load({"app": {"name": "theirs"}})
    app = Flask("x")
    app.extensions["ghost"] = type("State", (), {"config": theirs})

    set_config(ours)

    assert current_config() is ours
    with app.app_context():
        assert current_config() is theirs
    with Flask("y").app_context():
        assert current_config() is ours


def test_loading_reads_the_environment_of_the_process(tmp_path):
    script = (
        "from ghost.config import Config\n"
        "c = Config.load(); print(c.app.name, c.source('app.name'), c.root)"
    )

    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"GHOST_APP__NAME": "Shop", "GHOST_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == f"Shop environment GHOST_APP__NAME {tmp_path}\n"


# The documentation


def documented_default(field):
    default = field.metadata["default"]
    if field.metadata["shown"]:
        return field.metadata["shown"]
    if default is None or default in ([], {}):
        return "none"
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def test_the_documentation_says_what_the_code_says():
    page = (Path(__file__).parent.parent / "docs/configuration.md").read_text()
    tables = {
        part.partition("\n")[0]: [line for line in part.splitlines() if line.startswith("| `")]
        for part in page.split("\n### ")
    }

    for name, section in SECTIONS.items():
        assert tables[name] == [
            f"| `{f.name}` | {documented_default(f)} | {f.metadata['meaning']} |"
            for f in settings(section)
        ]
    assert tables["Outside any section"] == [
        f"| `{name}` | none | {meaning} |" for name, (_, meaning) in LISTS.items()
    ]
    assert tables["Environment variables"] == [
        f"| `{name}` | `{'.'.join(key)}` |" for name, key in SHORT_NAMES.items()
    ]


def test_the_projects_own_file_has_no_mistake(tmp_path):
    text = (Path(__file__).parent.parent / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text)

    assert Config.load(root=tmp_path, environ={}).app.name == "Ghost"
