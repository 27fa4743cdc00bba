"""The keys that development makes itself, and how they are kept."""

import json
import stat
import subprocess
import sys

import pytest

from ghost import secrets
from ghost.config import Config, ConfigError
from ghost.secrets import derived_key, flask_secret_key, signing_key

STRONG = "u8Rz3kQv0Lx7Yt2Wn5Bc9Md4Fg6Hj1Ps"
OTHER_STRONG = "Zq4Wn8Ke2Rv6Ty0Ui3Op7As1Df5Gh9Jk"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load a configuration as a new process would: with no secret in memory."""

    def load(**env):
        secrets._passing_secrets.cache_clear()
        monkeypatch.setattr(secrets, "_known", {})
        return Config.load(root=tmp_path, environ=env)

    return load


def test_configured_secrets_are_used_and_nothing_is_written(load, tmp_path):
    config = load(SECRET_KEY=STRONG, JWT_SECRET_KEY=OTHER_STRONG)

    assert signing_key(config) == OTHER_STRONG.encode()
    assert len(derived_key(config, "files")) == 32
    assert list(tmp_path.iterdir()) == []


def test_each_purpose_has_a_key_of_its_own(load):
    config = load(SECRET_KEY=STRONG)
    keys = {derived_key(config, "a"), derived_key(config, "b"), flask_secret_key(config)}

    assert len(keys) == 3
    assert derived_key(config, "a") == derived_key(load(SECRET_KEY=STRONG), "a")
    assert derived_key(config, "a") != derived_key(load(SECRET_KEY=OTHER_STRONG), "a")


def test_development_makes_its_secrets_on_first_use_and_keeps_them(load, tmp_path):
    file = tmp_path / "instance/secrets.json"
    config = load()
    assert not file.exists()

    signed, derived = signing_key(config), derived_key(config, "a")

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["secrets.json"]
    assert len(signed) >= 32
    again = load()
    assert (signing_key(again), derived_key(again, "a")) == (signed, derived)


def test_a_file_that_others_may_read_is_closed_to_them(load, tmp_path):
    signing_key(load())
    file = tmp_path / "instance/secrets.json"
    file.chmod(0o644)

    signing_key(load())

    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_testing_makes_secrets_in_memory_only(load, tmp_path):
    config = load(GHOST_ENV="testing")

    signed = signing_key(config)

    assert signing_key(config) == signed
    assert derived_key(config, "a") == derived_key(config, "a")
    assert list(tmp_path.iterdir()) == []
    assert signing_key(load(GHOST_ENV="testing")) != signed


def test_production_never_makes_a_secret(load, tmp_path):
    config = load(GHOST_ENV="testing")
    object.__setattr__(config.app, "env", "production")

    with pytest.raises(ConfigError, match="must be set"):
        signing_key(config)

    assert list(tmp_path.iterdir()) == []


DAMAGED = {
    "empty": b"",
    "cut": b'{"secret_key": "abc',
    "a list": b"[]",
    "a number": b"5",
    "without a secret": json.dumps({"secret_key": STRONG}).encode(),
    "of another type": json.dumps({"secret_key": STRONG, "jwt_secret_key": 5}).encode(),
    "a list of the right length": json.dumps(
        {"secret_key": STRONG, "jwt_secret_key": [0] * 40}
    ).encode(),
    "too short": json.dumps({"secret_key": STRONG, "jwt_secret_key": "x"}).encode(),
    "no text": b"\xff\xfe\x00",
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_one_line_that_names_the_cure(load, tmp_path, case):
    (tmp_path / "instance").mkdir()
    file = tmp_path / "instance/secrets.json"
    file.write_bytes(DAMAGED[case])

    with pytest.raises(ConfigError) as caught:
        signing_key(load())

    [line] = caught.value.mistakes
    assert line.startswith(f"{file}: damaged (")
    assert "delete it" in line
    assert STRONG not in line
    assert file.read_bytes() == DAMAGED[case]


def test_a_folder_that_cannot_be_made_is_one_line_that_names_the_cure(load, tmp_path):
    (tmp_path / "instance").write_text("a file")

    with pytest.raises(ConfigError) as caught:
        signing_key(load())

    [line] = caught.value.mistakes
    assert "cannot be made" in line
    assert "set SECRET_KEY and JWT_SECRET_KEY" in line


@pytest.mark.slow
def test_processes_that_start_together_agree(tmp_path):
    script = (
        "import sys; from ghost.config import Config; from ghost.secrets import signing_key\n"
        "config = Config.load(environ={}); print('ready', flush=True); sys.stdin.readline()\n"
        "print(signing_key(config).decode())"
    )
    for attempt in range(3):
        root = tmp_path / str(attempt)
        root.mkdir()
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", script],
                cwd=root,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(5)
        ]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        keys = [process.communicate()[0] for process in processes]

        assert [process.returncode for process in processes] == [0] * 5
        assert len(set(keys)) == 1
        assert keys[0].strip() in (root / "instance/secrets.json").read_text()
        assert [path.name for path in (root / "instance").iterdir()] == ["secrets.json"]
