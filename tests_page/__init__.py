"""Tests of the page in a real Chromium, with a real server: ``make test-page``.

They are not part of ``make test``, which needs no browser.
"""
