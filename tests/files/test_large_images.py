"""Pictures that are too large for a web worker: a process of its own, and the jobs' worker."""

from __future__ import annotations

import errno
import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from io import BytesIO
from tempfile import TemporaryFile
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from hostile import encode, picture
from photographs import assert_bare, is_upright, open_picture, photo
from PIL import Image
from resumable import TUS, begin, described, send
from stored_files import FileFactory

from ghost.config import current_config
from ghost.database import db_manager
from ghost.files import picture_process, pictures, variant_jobs, variant_rows, variants, workshop
from ghost.files.images import ImageInfo, Picture
from ghost.files.models import PUBLIC, StoredFile
from ghost.files.variant_rows import State, Wanted
from ghost.jobs.ledger import jobs as ledger
from ghost.models import utcnow
from ghost.testing.background import Jobs
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = pytest.mark.integration

THUMB = "thumb:128x128-cover"


@pytest.fixture
def app_config() -> Mapping[str, Any]:
    return {"storage": {"max_inline_pixels": 1000}}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (variants, "WAIT_SECONDS"),
        (variant_jobs, "WAIT_SECONDS"),
        (pictures, "ONLY_BENCH_SECONDS"),
    ):
        monkeypatch.setattr(module, name, 0.3)


@pytest.fixture
def ada(client: Client, make_user: UserFactory) -> Client:
    return client.as_user(make_user())


@pytest.fixture
def stored_photo(make_file: FileFactory) -> StoredFile:
    return make_file(
        photo("JPEG"), filename="harbour.jpg", content_type="image/jpeg", category="image",
        visibility=PUBLIC, width=240, height=160,
    )  # fmt: skip


def wanted(file: StoredFile) -> Wanted:
    return Wanted(file.id, THUMB, "image/jpeg")


def state_of(app: Flask, file: StoredFile) -> State:
    with app.app_context():
        return variant_rows.state_of(variant_rows.find(wanted(file)), utcnow())


# --- Uploads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["JPEG", "AVIF", "HEIC"])
def test_a_large_picture_is_stripped_by_a_process_of_its_own(ada: Client, name: str) -> None:
    content = photo(name, orientation=6)
    response = ada.post(
        "/api/v1/files", data={"file": (BytesIO(content), f"harbour.{name.lower()[:4]}")}
    )

    assert response.status_code == 201, response.text
    data = response.json["data"]
    kept = ada.get(data["url"]).data
    assert (data["width"], data["height"]) == (240, 160)
    assert is_upright(open_picture(kept))
    assert_bare(kept)


def test_a_large_picture_that_is_damaged_is_refused(ada: Client) -> None:
    content = encode(picture(240, 160), "PNG")[:-200]

    response = ada.post("/api/v1/files", data={"file": (BytesIO(content), "harbour.png")})

    assert response.status_code == 415


def test_a_process_that_takes_too_long_is_ended(
    ada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "PROCESS_SECONDS", 0.01)

    response = ada.post("/api/v1/files", data={"file": (BytesIO(photo("JPEG")), "harbour.jpg")})

    assert response.status_code == 413
    assert "too long" in response.json["error"]["message"]


def test_large_pictures_wait_for_each_other_but_not_for_long(app: Flask, ada: Client) -> None:
    with app.app_context():
        folder = current_config().instance
    folder.mkdir(exist_ok=True)
    with (folder / workshop.LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        response = ada.post("/api/v1/files", data={"file": (BytesIO(photo("JPEG")), "harbour.jpg")})

    assert response.status_code == 503
    assert "Retry-After" in response.headers
    assert ada.get("/api/v1/files").json["data"] == []


def test_without_a_place_for_the_lock_large_pictures_are_put_off(
    app: Flask, ada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workshop, "LOCK_FILE", "no/such/folder")

    response = ada.post("/api/v1/files", data={"file": (BytesIO(photo("JPEG")), "harbour.jpg")})

    assert response.status_code == 503


def test_few_uploads_wait_for_the_process_and_the_others_are_told_at_once(
    ada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "ONLY_BENCH_SECONDS", 60)
    monkeypatch.setattr(pictures, "BENCH_SECONDS", 60)

    with workshop.desk(), workshop.desk(), workshop.bench(0), workshop.bench(0):
        began = time.monotonic()
        for name in ("JPEG", "PNG"):
            form = {"file": (BytesIO(photo(name)), f"harbour.{name.lower()}")}
            response = ada.post("/api/v1/files", data=form)
            assert response.status_code == 503, response.text
            assert "Retry-After" in response.headers

    assert time.monotonic() - began < 5


def ending(code: int) -> str:
    return f"import os, signal; os._exit({code})"


def dying(name: str) -> str:
    return f"import os, signal; os.kill(os.getpid(), signal.{name})"


@pytest.mark.parametrize(
    ("program", "status"),
    [
        (dying("SIGSEGV"), 415),
        (dying("SIGABRT"), 415),
        (dying("SIGXCPU"), 413),
        (dying("SIGKILL"), 503),  # the kernel has no memory
        (dying("SIGTERM"), 503),
        (ending(1), 503),  # a full disk
        (ending(120), 503),
        (ending(picture_process.NO_IMAGE), 415),
        (ending(picture_process.TOO_LARGE), 413),
    ],
)
def test_only_what_a_picture_does_to_its_process_refuses_the_picture(
    ada: Client, monkeypatch: pytest.MonkeyPatch, program: str, status: int
) -> None:
    monkeypatch.setattr(pictures, "PROGRAM", program)

    response = ada.post("/api/v1/files", data={"file": (BytesIO(photo("JPEG")), "harbour.jpg")})

    assert response.status_code == status
    assert ("Retry-After" in response.headers) is (status == 503)


def test_a_resumable_upload_outlasts_a_process_that_was_killed(
    ada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = photo("JPEG")
    url = begin(ada, len(content), Upload_Metadata=described(filename="harbour.jpg"))

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "PROGRAM", dying("SIGKILL"))
        assert send(ada, url, 0, content).status_code == 503

    offset = int(ada.head(url, headers=TUS).headers["Upload-Offset"])
    assert send(ada, url, offset, content[offset:]).status_code == 204


@pytest.mark.parametrize("part", ["TemporaryFile", "subprocess.run"])
def test_a_disk_that_is_full_refuses_no_picture(
    ada: Client, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def fail(*_values: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"ghost.files.pictures.{part}", fail)

    response = ada.post("/api/v1/files", data={"file": (BytesIO(photo("JPEG")), "harbour.jpg")})

    assert response.status_code == 503


def run_process(setup: str, task: str, content: bytes) -> subprocess.CompletedProcess[bytes]:
    """Run the process itself, with a line of Python before it begins."""
    program = (
        f"import sys; from ghost.files import picture_process as p; {setup}; p.main(*sys.argv[1:])"
    )
    limits = pictures.Limits()
    numbers = (limits.max_bytes, limits.max_pixels, limits.max_frames, limits.max_frame_pixels)
    with TemporaryFile() as source:
        source.write(content)
        source.flush()
        return subprocess.run(
            [sys.executable, "-c", program, task, *map(str, numbers)],
            stdin=source,
            capture_output=True,
            timeout=30,
            check=False,
        )


def test_the_process_works_under_its_limits() -> None:
    done = run_process(
        "import resource as r; p.run = lambda *_: print("
        "r.getrlimit(r.RLIMIT_AS), r.getrlimit(r.RLIMIT_CPU), r.getrlimit(r.RLIMIT_CORE)) or 0",
        "inspect",
        b"",
    )

    memory, seconds = picture_process.MEMORY_BYTES, picture_process.PROCESSOR_SECONDS
    killed = seconds + picture_process.KILL_AFTER_SECONDS
    assert done.stdout.decode().strip() == f"{(memory, memory)} {(seconds, killed)} (0, 0)"


def test_a_picture_that_needs_more_memory_than_the_process_has_is_too_large() -> None:
    content = encode(picture(4000, 4000), "JPEG")
    load = "import ghost.files.image_pixels, resource; p.MEMORY_BYTES = {}"
    little = "int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + 30 * 2**20"

    done = run_process(load.format(little), "strip", content)

    assert done.returncode == picture_process.TOO_LARGE, done.stderr
    assert run_process(load.format(2**32), "strip", content).returncode == 0


def test_the_processor_s_time_is_limited_by_a_signal_that_tells_why() -> None:
    done = run_process(
        "p.PROCESSOR_SECONDS = 1; p.run = lambda *_: [0 for _ in iter(int, 1)]", "x", b""
    )

    assert done.returncode == -signal.SIGXCPU


def test_the_process_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is started with; that it works shows elsewhere."""
    seen: dict[str, Any] = {}
    real = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        seen.update(options)
        return real(command, **options)

    monkeypatch.setattr(pictures.subprocess, "run", run)
    with TemporaryFile() as source, TemporaryFile() as target:
        source.write(photo("JPEG"))
        source.flush()
        pictures._run(source, target, pictures.Limits(), task="strip")

    assert set(seen["env"]) == {"PYTHONPATH"}
    assert seen["timeout"] == pictures.PROCESS_SECONDS


# --- Variants -------------------------------------------------------------------------------------


def test_a_variant_of_a_large_picture_is_made_by_a_worker(
    client: Client, jobs: Jobs, stored_photo: StoredFile
) -> None:
    url = f"/api/v1/files/{stored_photo.id}/images/thumb"

    for _ in range(2):
        pending = client.get(url)
        assert pending.status_code == 503
        assert "Retry-After" in pending.headers
    assert jobs.names() == ["files.make_variant"]

    jobs.run_all()
    made = client.get(url)
    assert made.status_code == 200
    assert Image.open(BytesIO(made.data)).size == (128, 128)


def test_a_job_for_what_is_not_there_any_more_does_nothing(
    app: Flask, client: Client, jobs: Jobs, stored_photo: StoredFile
) -> None:
    client.get(f"/api/v1/files/{stored_photo.id}/images/thumb")
    with app.app_context(), db_manager.session() as session:
        session.get_one(StoredFile, stored_photo.id).deleted_at = utcnow()

    jobs.run_all()

    assert state_of(app, stored_photo) is State.FREE


def test_a_variant_whose_maker_died_is_made_by_a_worker_and_the_late_one_is_not_taken(
    app: Flask, client: Client, jobs: Jobs, stored_photo: StoredFile
) -> None:
    url = f"/api/v1/files/{stored_photo.id}/images/thumb"
    with app.app_context():
        dead = variant_rows.claim(wanted(stored_photo), 0.1)
    assert dead is not None
    assert state_of(app, stored_photo) is State.CLAIMED
    time.sleep(0.1)
    assert state_of(app, stored_photo) is State.ABANDONED

    assert client.get(url).status_code == 503
    jobs.run_all()

    assert client.get(url).status_code == 200
    late = Picture(b"late", ImageInfo("JPEG", "image/jpeg", 1, 1))
    with app.app_context():
        assert not variant_rows.finish(dead, late)


def test_a_job_leaves_to_others_what_they_are_making(
    app: Flask, jobs: Jobs, client: Client, stored_photo: StoredFile
) -> None:
    client.get(f"/api/v1/files/{stored_photo.id}/images/thumb")
    with app.app_context():
        assert variant_rows.claim(wanted(stored_photo), 60)

    assert jobs.run_all(may_fail=True) == [("files.make_variant", "retrying")]


def test_a_job_steps_back_while_another_large_picture_is_worked_on(
    app: Flask, client: Client, jobs: Jobs, stored_photo: StoredFile
) -> None:
    client.get(f"/api/v1/files/{stored_photo.id}/images/thumb")
    with app.app_context():
        folder = current_config().instance
    folder.mkdir(exist_ok=True)
    with (folder / workshop.LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert jobs.run_all(may_fail=True) == [("files.make_variant", "retrying")]

    assert state_of(app, stored_photo) is State.FREE


def test_a_picture_that_kills_its_makers_is_given_up(
    app: Flask, client: Client, jobs: Jobs, stored_photo: StoredFile
) -> None:
    url = f"/api/v1/files/{stored_photo.id}/images/thumb"
    client.get(url)
    with app.app_context():
        variant_rows.claim(wanted(stored_photo), 60)
        with db_manager.connection() as connection:
            job_id = connection.scalar(sa.select(ledger.c.id))
        variant_jobs.job_failed.send(app, job_id=job_id, name="files.make_variant", error="killed")

    assert client.get(url).status_code == 415


def test_few_requests_wait_for_the_worker_and_the_others_are_told_at_once(
    client: Client, jobs: Jobs, stored_photo: StoredFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "WAIT_SECONDS", 60)

    with workshop.seat(), workshop.seat():
        began = time.monotonic()
        response = client.get(f"/api/v1/files/{stored_photo.id}/images/thumb")

    assert response.status_code == 503
    assert time.monotonic() - began < 5
    assert jobs.names() == ["files.make_variant"]
