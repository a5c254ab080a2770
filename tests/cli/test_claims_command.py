"""`mcnqm claims`: the table, one claim explained, files and the page."""

import json
import re
import subprocess
from html.parser import HTMLParser
from shutil import which

import pytest
import xarray as xr
from command_line import in_this_process

pytest.importorskip("jinja2")

TWO = "momentum-steady rotation"


def test_table_and_files(tmp_path, monkeypatch, capsys):
    line = f"mcnqm claims {TWO} --cache {tmp_path}/kept --output {tmp_path}/a.nc --html {tmp_path}/a.html"
    code, out, _ = in_this_process(monkeypatch, capsys, line)
    assert code == 0
    assert re.search(r"momentum-steady\s+supported\s+6 of 6", out)
    assert re.search(r"rotation\s+open", out)
    assert "1 supported, 1 open" in out
    with xr.open_dataset(tmp_path / "a.nc") as table:
        assert [str(word) for word in table.verdict.values.astype(str)] == ["supported", "open"]
    code, _, err = in_this_process(monkeypatch, capsys, line)
    assert code == 2
    assert "--force" in err


def test_one_claim_is_explained(tmp_path, monkeypatch, capsys):
    line = f"mcnqm claims n-steps-one --cache {tmp_path}/kept --output {tmp_path}/a.json --figure {tmp_path}/a.png"
    code, out, _ = in_this_process(monkeypatch, capsys, line)
    assert code == 0
    assert "n-steps-one: qualified" in out
    assert "Verdict: qualified. Holds: " in out
    assert "Bonferroni" in out
    assert (tmp_path / "a.png").stat().st_size > 10_000
    (row,) = json.loads((tmp_path / "a.json").read_text())["claims"]
    assert row["verdict"] == "qualified"
    assert [effect["outcome"] for effect in row["effects"]] == ["holds", "holds", "holds", "fails"]
    assert (tmp_path / "kept" / "claim-n-steps-one.json").exists()


def test_what_is_refused(tmp_path, monkeypatch, capsys):
    for line, word in (
        ("mcnqm claims no-such-claim", "lr-sqrt-adam"),
        (f"mcnqm claims {TWO} --figure {tmp_path}/a.png", "single claim"),
        (f"mcnqm claims rotation --output {tmp_path}/a.txt", ".json"),
        (f"mcnqm claims rotation --cache {tmp_path}/file", "file"),
    ):
        (tmp_path / "file").write_text("")
        code, _, err = in_this_process(monkeypatch, capsys, line)
        assert code == 2
        assert word in err


class Page(HTMLParser):
    """Sources of images and their alternative texts, links, and identifiers."""

    def __init__(self, text):
        super().__init__()
        self.images, self.links, self.ids, self.loaded = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "img":
            self.images.append((found["src"], found["alt"]))
        elif tag == "a":
            self.links.append(found["href"])
        elif tag in ("link", "script", "iframe"):
            self.loaded.append(found)


@pytest.fixture
def page(tmp_path, monkeypatch, capsys):
    names = "momentum-steady momentum-transient n-steps-one rotation"
    line = f"mcnqm claims {names} --cache {tmp_path}/kept --html {tmp_path}/a.html"
    assert in_this_process(monkeypatch, capsys, line)[0] == 0
    return tmp_path / "a.html"


def test_page_needs_no_network_and_says_what_pictures_show(page):
    text = page.read_text()
    found = Page(text)
    assert not found.loaded
    assert len(found.images) == 3
    assert all(src.startswith("data:image/svg+xml;base64,") and len(alt) > 40 for src, alt in found.images)
    assert sorted(found.links) == sorted(f"#{id_}" for id_ in found.ids)
    assert "http" not in re.sub(r"data:image[^\"]*", "", text)
    assert "&gt;" not in text.replace("->", "")


BROWSER = which("chromium") or which("chromium-browser") or which("google-chrome")


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no headless browser is installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_a_desktop_and_a_phone(page, tmp_path, width):
    """In a frame of that width, whatever the least width of the browser's own window."""
    inner = page.read_text().replace("&", "&amp;").replace('"', "&quot;")
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<!doctype html><title>not run</title><iframe id="f" width="{width}" height="800" srcdoc="{inner}"></iframe>'
        "<script>f.onload = () => { const d = f.contentDocument.documentElement, images = "
        "[...f.contentDocument.images]; document.title = [d.scrollWidth, d.clientWidth, "
        "images.every(i => i.naturalWidth > 0)].join(' ') }</script>"
    )
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    command += ["--window-size=1400,900", "--virtual-time-budget=5000", "--dump-dom", outer.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    scroll, client, loaded = re.search(r"<title>(\d+) (\d+) (\w+)</title>", shown).groups()
    assert int(scroll) <= int(client) <= width
    assert int(client) > 0.9 * width
    assert loaded == "true"
