"""The name under which a browser saves a result: safe anywhere, whatever the client called it."""

from __future__ import annotations

import unicodedata
from email.message import Message
from urllib.parse import unquote

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from vidproc.frontends.http.disposition import attachment, result_name

PROPERTY = settings(max_examples=400, deadline=None, derandomize=True, database=None)


def name_read(header: str) -> tuple[str, str | None]:
    """Return the plain and the encoded name that a reader of MIME headers finds."""
    message = Message()
    message["Content-Disposition"] = header.split("; filename*=")[0]
    plain = message.get_param("filename", header="content-disposition")
    assert isinstance(plain, str)
    _, star, encoded = header.partition("; filename*=UTF-8''")
    return plain, unquote(encoded, errors="strict") if star else None


class NameTests(SynchronousTestCase):
    def test_names(self) -> None:
        for label, name in (
            ("holiday.mov", "holiday_processed.mp4"),
            ("Ferien am Meer.mov", "Ferien am Meer_processed.mp4"),
            ("Übung über Öl.mkv", "Übung über Öl_processed.mp4"),
            (None, "result.mp4"),
            ("", "result.mp4"),
            ("...", "result.mp4"),
            ("../../etc/passwd", "passwd_processed.mp4"),
            ("C:\\films\\a.avi", "a_processed.mp4"),
            ('a"b;c.mp4', "a b c_processed.mp4"),
            ("a\r\nSet-Cookie: x.mp4", "aSet-Cookie x_processed.mp4"),
            ("evil\u202egpj.exe", "evilgpj_processed.mp4"),
            ("CON.mp4", "CON__processed.mp4"),
            (".htaccess", "htaccess_processed.mp4"),
            ("映画.mp4", "映画_processed.mp4"),
        ):
            self.assertEqual(result_name(label, "mp4"), name, label)

    def test_the_header(self) -> None:
        self.assertEqual(attachment("a_processed.mp4"), 'attachment; filename="a_processed.mp4"')
        self.assertEqual(
            attachment("Öl 100%.mp4"),
            "attachment; filename=\"_l 100%.mp4\"; filename*=UTF-8''%C3%96l%20100%25.mp4",
        )

    @PROPERTY
    @given(st.text(max_size=300), st.sampled_from(["mp4", "webm", "gif", "mp3", "mkv"]))
    def test_any_label_gives_a_safe_name(self, label: str, kind: str) -> None:
        name = result_name(label, kind)
        self.assertLessEqual(len(name.encode()), 200)
        self.assertTrue(name.endswith(f".{kind}"))
        self.assertFalse(set(name) & set('/\\:*?"<>|;'), name)
        self.assertFalse(any(unicodedata.category(c)[0] == "C" for c in name), name)
        self.assertFalse(name.startswith((".", " ", "-")), name)
        header = attachment(name)
        self.assertTrue(header.isascii() and header.isprintable(), header)
        plain, encoded = name_read(header)
        self.assertEqual(encoded or plain, name)
