"""The text twin of an HTML mail: readable for people, and quick whatever it is made from."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost.mail.plaintext import links_of, to_text

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("", ""),
        ("Hello", "Hello\n"),
        ("<p>One  two\n three</p><p>Four</p>", "One two three\n\nFour\n"),
        ('<a href="https://a.example/?x=1&amp;y=2">Go</a>', "Go (https://a.example/?x=1&y=2)\n"),
        ('<a href="https://a.example">https://a.example</a>', "https://a.example\n"),
        ('<a href="mailto:a@b.example">a@b.example</a>', "a@b.example\n"),
        ('<a href="https://a.example"><img src="x"></a>', "https://a.example\n"),
        ('<a href="#top">Up</a> <a href="javascript:x()">Run</a>', "Up Run\n"),
        ("<ul><li>One<li>Two<ul><li>In</ul></ul>", "- One\n- Two\n  - In\n"),
        ('<ol start="3"><li>x</li><li>y</li></ol>z', "3. x\n4. y\n\nz\n"),
        ("<table><tr><th>A<th>B<tr><td>Tea<td>3 &euro;</table>", "A | B\nTea | 3 €\n"),
        ('<img alt="Logo" src="x"> Acme', "Logo Acme\n"),
        ("<style>p{}</style><script>'<p>x</p>'</script><title>T</title>y", "y\n"),
        ("<head><title>T</title></head><body>y", "y\n"),
        ("a<!-- b -->c<br>d", "ac\nd\n"),
        ("<pre>a\n  b</pre>", "a\n  b\n"),
        ("<blockquote>a<br>b</blockquote>c", "> a\n> b\n\nc\n"),
        ("1 < 2 &amp; 3 &lt;b&gt;", "1 < 2 & 3 <b>\n"),
        ("<p title=\"x>One</p><p title='a > b'>Two</p>", "One\n\nTwo\n"),
        ("x&#" + "9" * 5000 + ";y", "x\ufffdy\n"),
        ("<p id = a / class='b' / >x", "x\n"),
        ("a<hr>b", "a\n\n--------------------\n\nb\n"),
    ],
)  # fmt: skip
def test_html_is_said_in_words(html: str, text: str) -> None:
    assert to_text(html) == text


TAGS = st.sampled_from(
    ["<p>", "</p>", "<a href='x'>", "</a>", "<ul>", "<li>", "</ul>", "<td>", "<tr>", "<pre>",
     "</pre>", "<!--", "-->", "<style>", "</style>", "<", ">", "&", "&#x110000;", "<img alt=",
     '"', "<blockquote>", "\n", "<br>", "<head>", "<body>", "<ol start=9>"]
)  # fmt: skip


@given(st.lists(TAGS | st.text(max_size=5)).map("".join))
def test_anything_has_a_text(html: str) -> None:
    text = to_text(html)

    assert text == "" or text.endswith("\n")
    assert isinstance(links_of(html), list)


@pytest.mark.parametrize(
    "piece",
    ["<", "<!", "<!--", "<![CDATA[", "<a", "<a ", "</", "<a b='", "&", "&#", "&#9", "<?", "</a",
     '<a b="\'', "<script>", "<a/", "<a b=c ", "<ul>", "<ul><li>x", "<a href=http://x>y", "<td>x",
     "<pre>\n", "<title>", "<a =", " ", "<svg>", "<p ", "<blockquote>", '<x ">"', "<x '>'",
     "<x \">'\">'", '<x ">" ', "<x \">", "<script></script", "<br>", "9", "<li>"]
)  # fmt: skip
@pytest.mark.parametrize(
    "frame", ["{}", "<p {}>x", "<p a={}>x", "<p {}=>x", "&#{};", '<a href="{}">x</a>']
)
def test_hostile_html_takes_no_longer_than_its_length(piece: str, frame: str) -> None:
    def seconds(count: int) -> float:
        html = frame.format(piece * count)
        started = time.process_time()
        to_text(html)
        links_of(html)
        return time.process_time() - started

    # Four times as much may take four times as long; the square of it were sixteen times.
    few, many = seconds(2_000), seconds(8_000)

    assert many < 0.3 or many < 8 * few
