"""The page in a real browser: no error on the console, nothing asked for, nothing wider than a phone.

Needs Chromium. Without it the tests are skipped, or fail where the environment says ``CURATION_BROWSER=required``.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess

import pytest

from curation.explain import input_files
from curation.report.page import write_report
from tests.cli.project import TWO_OUTPUTS
from tests.report.pages import build_of

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
]


@pytest.fixture(scope="module")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("CURATION_BROWSER") == "required":
            pytest.fail("no chromium found though CURATION_BROWSER=required; `apt-get install chromium`")
        pytest.skip("no chromium found; `apt-get install chromium`")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    build = build_of(tmp_path_factory.mktemp("browser"), TWO_OUTPUTS)
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, build.manifest, input_files(build.manifest))
    return path


def browse(chromium, page, profile, *flags):
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.parametrize(("width", "height"), [(1100, 2000), (390, 3000)])
def test_page__draws_without_an_error(chromium, page, tmp_path, width, height):
    picture = tmp_path / "page.png"
    run = browse(chromium, page, tmp_path / "profile", f"--window-size={width},{height}", f"--screenshot={picture}")
    assert not re.findall(r".*CONSOLE.*", run.stderr)
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (width, height)
    assert picture.stat().st_size > 30_000  # an empty page is a few kB


def test_page__is_no_wider_than_a_phone(chromium, page, tmp_path):
    # a script measures the page in a frame of a phone's width; the page itself has none and forbids them
    html = page.read_text("utf-8")
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    inner = tmp_path / "inner.html"
    inner.write_text(html, "utf-8")
    probe = tmp_path / "probe.html"
    probe.write_text(
        '<!doctype html><title></title><iframe src="inner.html" style="width:390px;height:900px;border:0"></iframe>'
        "<script>onload = () => { const d = frames[0].document.documentElement;"
        "document.title = d.scrollWidth + ' ' + frames[0].innerWidth }</script>",
        "utf-8",
    )
    run = browse(
        chromium,
        probe,
        tmp_path / "profile",
        "--allow-file-access-from-files",
        "--virtual-time-budget=3000",
        "--dump-dom",
    )
    found = re.search(r"<title>(\d+) (\d+)</title>", run.stdout)
    assert found, run.stdout[:500]
    assert int(found[1]) <= int(found[2]) == 390
