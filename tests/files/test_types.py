"""What a file is: decided from its bytes, and what it is called and said to be has to agree."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping

import pytest
from PIL import Image

from ghost.config_storage import ALLOWED_TYPES
from ghost.errors import GhostError
from ghost.files.images import Limits
from ghost.files.types import (
    KINDS,
    OPAQUE,
    Content,
    Sniffer,
    TypeRefused,
    category_of,
    is_allowed,
    recognize,
)

pytestmark = pytest.mark.unit

OOXML = "application/vnd.openxmlformats-officedocument."
ODF = "application/vnd.oasis.opendocument."


def sniffed(content: bytes, step: int = 1000) -> Sniffer:
    sniffer = Sniffer()
    for start in range(0, len(content), step):
        sniffer.feed(content[start : start + step])
    return sniffer


def look(
    content: bytes,
    filename: str = "a",
    declared_type: str | None = None,
    allowed: tuple[str, ...] = ALLOWED_TYPES,
) -> Content:
    sniffer = sniffed(content)
    whole = io.BytesIO(content) if sniffer.needs_whole else None
    return recognize(
        sniffer, whole, filename=filename, declared_type=declared_type, allowed=allowed,
        limits=Limits(),
    )  # fmt: skip


def image(name: str, size: tuple[int, int] = (8, 8)) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", size, "red").save(target, name)
    return target.getvalue()


def zipped(members: Mapping[str, bytes], *, deflate: bool = True) -> bytes:
    target = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    with zipfile.ZipFile(target, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content, zipfile.ZIP_STORED if name == "mimetype" else kind)
    return target.getvalue()


def office(member: str, **more: bytes) -> bytes:
    return zipped({"[Content_Types].xml": b"<Types/>", member: b"<x/>", **more})


def tar(name: str = "a.txt", content: bytes = b"Hello") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


MP4 = b"\0\0\0\x3cftypisom\0\0\x02\0isomiso2avc1mp41" + b"\0" * 100
M4A = b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0" + b"\0" * 100
MOV = b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + b"\0" * 100
WEBM = b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm" + b"\0" * 100
KNOWN: dict[str, tuple[bytes, str, str, str]] = {
    "JPEG": (image("JPEG"), "a.jpg", "image/jpeg", "image"),
    "PNG": (image("PNG"), "a.png", "image/png", "image"),
    "GIF": (image("GIF"), "a.gif", "image/gif", "image"),
    "WebP": (image("WEBP"), "a.webp", "image/webp", "image"),
    "AVIF": (image("AVIF", (64, 64)), "a.avif", "image/avif", "image"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a.pdf", "application/pdf", "document"),
    "a PDF that is text": (b"%PDF-1.4\n1 0 obj\n", "a.pdf", "application/pdf", "document"),
    "Word": (
        office("word/document.xml"), "a.docx", OOXML + "wordprocessingml.document", "document",
    ),
    "Excel": (office("xl/workbook.xml"), "a.xlsx", OOXML + "spreadsheetml.sheet", "document"),
    "PowerPoint": (
        office("ppt/presentation.xml"), "a.pptx", OOXML + "presentationml.presentation",
        "document",
    ),
    "Writer": (
        zipped({"mimetype": f"{ODF}text".encode(), "content.xml": b"<x/>"}), "a.odt",
        ODF + "text", "document",
    ),
    "Calc": (
        zipped({"mimetype": f"{ODF}spreadsheet".encode(), "content.xml": b"<x/>"}), "a.ods",
        ODF + "spreadsheet", "document",
    ),
    "ZIP": (zipped({"a.txt": b"Hello"}), "a.zip", "application/zip", "archive"),
    "ZIP of a website": (
        zipped({"index.html": b"<html></html>"}, deflate=False), "a.zip", "application/zip",
        "archive",
    ),
    "an empty ZIP": (zipped({}), "a.zip", "application/zip", "archive"),
    "gzip": (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "a.gz", "application/gzip", "archive"),
    "tar": (tar(), "a.tar", "application/x-tar", "archive"),
    "tar of a website": (tar("i.html", b"<html>"), "a.tar", "application/x-tar", "archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\x04", "a.7z", "application/x-7z-compressed", "archive"),
    "MP3": (b"ID3\x03\0\0\0\0\0\x0f" + b"\0" * 50, "a.mp3", "audio/mpeg", "audio"),
    "Ogg": (b"OggS\0\x02" + b"\0" * 50, "a.ogg", "audio/ogg", "audio"),
    "WAV": (b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0", "a.wav", "audio/wav", "audio"),
    "FLAC": (b"fLaC\0\0\0\x22" + b"\0" * 50, "a.flac", "audio/flac", "audio"),
    "M4A": (M4A, "a.m4a", "audio/mp4", "audio"),
    "MP4": (MP4, "a.mp4", "video/mp4", "video"),
    "QuickTime": (MOV, "a.mov", "video/quicktime", "video"),
    "WebM": (WEBM, "a.webm", "video/webm", "video"),
    "text": (b"Hello\n", "a.txt", "text/plain", "text"),
    "text without an extension": (b"Hello\n", "README", "text/plain", "text"),
    "text of an unknown extension": (b"a: b\n", "a.yaml", "text/plain", "text"),
    "text in UTF-8": ("Grüße, 世界 🎉\n".encode(), "a.txt", "text/plain", "text"),
    "text with a mark": (b"\xef\xbb\xbfHello\n", "a.txt", "text/plain", "text"),
    "text about bitmaps": (b"BMW;12\n", "a.csv", "text/csv", "text"),
    "text about zones": (b"MZ is short for Mark Zbikowski\n", "a.txt", "text/plain", "text"),
    "CSV": (b"a,b\n1,2\n", "a.csv", "text/csv", "text"),
    "Markdown": (b"# Hello\n\n1 < 2\n", "a.md", "text/markdown", "text"),
    "JSON": (b'{"a": "<b>"}', "a.json", "application/json", "text"),
}  # fmt: skip


@pytest.mark.parametrize("case", KNOWN)
def test_the_content_tells_the_type(case: str) -> None:
    content, filename, content_type, category = KNOWN[case]

    found = look(content, filename)

    assert (found.content_type, found.category) == (content_type, category)
    assert (found.width is None) == (category != "image")


def test_every_type_that_is_allowed_by_default_is_known() -> None:
    assert set(ALLOWED_TYPES) <= {kind.content_type for kind in KINDS}
    assert len({e for kind in KINDS for e in kind.extensions}) == sum(
        len(kind.extensions) for kind in KINDS
    )


ACTIVE: dict[str, bytes] = {
    "HTML": b"<!DOCTYPE html><html></html>",
    "HTML in small letters": b"<html>",
    "HTML behind blanks": b" \t\r\n\f<script>alert(1)</script>",
    "HTML behind a mark": b"\xef\xbb\xbf<html>",
    "HTML behind a comment": b"<!-- a -->\n<!-- b --> <html>",
    "HTML behind a comment without an end": b"<!-- a <html>",
    "HTML in UTF-16": "<html>".encode("utf-16"),
    "HTML in UTF-16, the other way": b"\xfe\xff" + "<html>".encode("utf-16-be"),
    "HTML in UTF-16 without a mark": "<html>".encode("utf-16-le"),
    "HTML in UTF-32": "<html>".encode("utf-32"),
    "a paragraph": b"<p>Hello</p>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "SVG behind its declaration": b'<?xml version="1.0"?><svg/>',
    "SVG behind entities": b'<!DOCTYPE svg [<!ENTITY a "b">]><svg/>',
    "XML": b"<?xml version='1.0'?><a/>",
    "any element": b"<a:b xmlns:a='c'/>",
    "PHP": b"<?php system($_GET['a']);",
    "PHP, short": b"<?=`id`?>",
    "JSP": b"<%@ page %>",
    "a shell script": b"#!/bin/sh\nid\n",
    "a script behind NULs": b"\0\0<script>",
    "a GIF that is a script": b"GIF89a/*<script>*/=1;alert(1)",
    "a PDF that is a page": b"%PDF-1.4\n<html><script>alert(1)</script>",
    "an MP3 that is a page": b"ID3\x03\0\0\0\0\0\x0f<html><script>alert(1)</script>",
    "a film that is a page": MP4 + b"<iframe src=//evil>",
}


@pytest.mark.parametrize(
    ("content", "filename", "content_type"),
    [
        (b"Hello <ScRiPt>alert(1)</sCrIpT>", "a.txt", "text/plain"),
        (b"# Notes\n\nA page begins with `<html>` and has a <body>.\n", "a.md", "text/markdown"),
        (b"tag,use\n<script>,scripts\n", "a.csv", "text/csv"),
        (b'{"page": "<!DOCTYPE html><html></html>"}', "a.json", "application/json"),
    ],
)
def test_a_text_may_tell_of_markup(content: bytes, filename: str, content_type: str) -> None:
    assert look(content, filename).content_type == content_type


@pytest.mark.parametrize("filename", ["a.txt", "a", "a.pdf", "a.csv"])
@pytest.mark.parametrize("case", ACTIVE)
def test_active_content_is_refused_whatever_it_is_called(case: str, filename: str) -> None:
    with pytest.raises(TypeRefused):
        look(ACTIVE[case], filename, allowed=("*/*", OPAQUE, "text/*", "application/*", "video/*"))


@pytest.mark.parametrize(
    "filename",
    ["a.html", "a.svg", "a.xml", "a.js", "a.PHP", "a.exe", "a.sh", "a.jar", "a.xhtml", "a.hta"],
)
def test_a_name_of_files_that_are_run_is_refused(filename: str) -> None:
    with pytest.raises(TypeRefused):
        look(b"Hello\n", filename)


MISMATCHED = {
    "a picture called PDF": (image("PNG"), "a.pdf"),
    "a picture called otherwise": (image("PNG"), "a.jpg"),
    "a picture called text": (image("PNG"), "a.txt"),
    "text called picture": (b"Hello", "a.png"),
    "text called PDF": (b"Hello", "a.pdf"),
    "text called ZIP": (b"Hello", "a.zip"),
    "a PDF called text": (b"%PDF-1.7\n", "a.txt"),
    "a ZIP called Word": (zipped({"a": b"b"}), "a.docx"),
    "Excel called Word": (office("xl/workbook.xml"), "a.docx"),
    "text called JSON": (b"Hello", "a.json"),
    "an MP3 called film": (KNOWN["MP3"][0], "a.mp4"),
    "Word with macros": (
        office("word/document.xml", **{"word/vbaProject.bin": b"x"}), "a.docx",
    ),
    "two documents in one": (office("word/document.xml", **{"xl/workbook.xml": b"x"}), "a.docx"),
    "a program of Java": (zipped({"META-INF/MANIFEST.MF": b"x"}), "a.zip"),
    "a ZIP that says it is a page": (zipped({"mimetype": b"text/html"}), "a.odt"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISMATCHED)
def test_a_name_that_contradicts_the_content_is_refused(case: str) -> None:
    content, filename = MISMATCHED[case]

    with pytest.raises(TypeRefused):
        look(content, filename)


@pytest.mark.parametrize(
    ("case", "declared"),
    [
        ("PNG", None),
        ("PNG", ""),
        ("PNG", "image/png"),
        ("PNG", "IMAGE/PNG; charset=binary"),
        ("PNG", "application/octet-stream"),
        ("JPEG", "image/jpg"),
        ("CSV", "text/csv; charset=utf-8"),
        ("CSV", "text/plain"),
        ("CSV", "application/vnd.ms-excel"),
        ("JSON", "text/plain"),
        ("ZIP", "application/x-zip-compressed"),
        ("Word", "application/zip"),
        ("MP3", "audio/mp3"),
        ("WAV", "audio/x-wav"),
        ("M4A", "audio/x-m4a"),
    ],
)
def test_a_declared_type_may_be_one_of_its_names(case: str, declared: str | None) -> None:
    content, filename, content_type, _ = KNOWN[case]

    assert look(content, filename, declared).content_type == content_type


@pytest.mark.parametrize(
    ("case", "declared"),
    [
        ("PNG", "image/jpeg"),
        ("PNG", "text/html"),
        ("PNG", "text/plain"),
        ("text", "text/html"),
        ("text", "image/png"),
        ("text", "application/json"),
        ("PDF", "application/zip"),
        ("MP3", "video/mp4"),
        ("text", "nonsense"),
    ],
)
def test_a_declared_type_that_contradicts_the_content_is_refused(case: str, declared: str) -> None:
    content, filename, *_ = KNOWN[case]

    with pytest.raises(TypeRefused):
        look(content, filename, declared)


NO_TEXT = {
    "a NUL": b"Hello\0",
    "a control character": b"Hello\x1b[31m",
    "half a character": "é".encode()[:1],
    "half a character at the end": b"Hello" + "世".encode()[:2],
    "Latin-1": "Grüße".encode("latin-1"),
    "UTF-16": "Hello".encode("utf-16"),
    "a NUL far behind": b"a" * 100_000 + b"\0",
    "a surrogate": b"\xed\xa0\x80",
}


@pytest.mark.parametrize("case", NO_TEXT)
def test_what_is_no_text_throughout_is_opaque(case: str) -> None:
    with pytest.raises(TypeRefused):
        look(NO_TEXT[case], "a.txt")
    assert look(NO_TEXT[case], "a.dat", allowed=(OPAQUE,)) == Content(OPAQUE, "other")


def test_bytes_that_begin_by_chance_as_an_element_does_are_opaque() -> None:
    assert look(b"\x01<a\xff\xee\x02" * 100, "a.dat", allowed=(OPAQUE,)).category == "other"


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_a_character_may_be_cut_by_the_pieces(step: int) -> None:
    assert sniffed("é世🎉".encode() * 10, step).is_text


@pytest.mark.parametrize(
    "content",
    [image("PNG")[:-20], image("JPEG")[:200], image("PNG")[:20], image("BMP"), image("TIFF")],
    ids=["a PNG that is cut", "a JPEG that is cut", "the head of a PNG", "a bitmap", "a TIFF"],
)
def test_a_picture_that_does_not_decode_is_refused(content: bytes) -> None:
    with pytest.raises(GhostError) as caught:
        look(content, "a", allowed=("image/*",))

    assert caught.value.status == 415


HOSTILE_ZIPS = {
    "no list": b"PK\x03\x04" + b"\0" * 1000,
    "a list that is elsewhere": b"PK\x03\x04"
    + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, 2**31, 2**31, 0),
    "a list of nonsense": b"PK\x03\x04"
    + b"\xff" * 500
    + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 9, 9, 400, 4, 0),
    "a list that is cut": zipped({f"{number}": b"" for number in range(100)})[:-60],
    "twenty thousand members": zipped({f"{number:08}": b"" for number in range(20_001)}),
}


@pytest.mark.parametrize("case", HOSTILE_ZIPS)
def test_a_strange_archive_is_an_archive_and_no_more(case: str) -> None:
    assert look(HOSTILE_ZIPS[case], "a.zip").content_type == "application/zip"


@pytest.mark.parametrize(
    ("content_type", "category"),
    [
        ("image/tiff", "image"),
        ("audio/midi", "audio"),
        ("video/mpeg", "video"),
        ("font/ttf", "other"),
        (OPAQUE, "other"),
    ],
)
def test_types_that_are_not_listed_have_a_category_too(content_type: str, category: str) -> None:
    assert category_of(content_type) == category


def test_all_of_a_kind_may_be_allowed() -> None:
    assert is_allowed("audio/midi", ["audio/*"])
    assert not is_allowed("audio/midi", ["audio/mpeg", "video/*"])
