"""A page in a real headless browser, which sorts, zooms and narrows it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
#: Looks at the page from inside: sorts a table, zooms a plot, narrows the page.
LOOK = """<script>
const errors = [];
addEventListener("error", event => errors.push(event.message));
addEventListener("securitypolicyviolation", event => errors.push(event.blockedURI));
addEventListener("load", () => {
  const found = {requests: performance.getEntriesByType("resource").map(entry => entry.name)};
  const table = document.querySelector("#trials table"), column = () =>
    Array.from(table.tBodies[0].rows, row => row.cells[3].textContent);
  const head = table.tHead.rows[0].cells[3].firstElementChild;
  head.click(); found.rising = column();
  head.click(); found.falling = column();
  const plot = document.querySelector("#curve svg.plot"), area = plot.getBoundingClientRect();
  const point = (type, x, y) => {
    const at = {clientX: area.left + x * area.width, clientY: area.top + y * area.height};
    plot.dispatchEvent(new PointerEvent(type, {...at, pointerId: 1, button: 0}));
  };
  plot.setPointerCapture = () => {};
  point("pointerdown", 0.25, 0.1); point("pointermove", 0.5, 0.3); point("pointerup", 0.75, 0.6);
  found.zoomed = plot.getAttribute("viewBox").split(" ").map(Number);
  plot.dispatchEvent(new MouseEvent("dblclick"));
  found.whole = plot.getAttribute("viewBox");
  found.overflow = [390, 1440].map(width => {
    document.body.style.width = width + "px";
    return document.body.scrollWidth - document.body.clientWidth;
  });
  found.errors = errors;
  const out = document.createElement("pre");
  out.id = "found"; out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script>"""


def looked_at(page: Path, folder: Path) -> dict[str, Any]:
    """What the browser found on a page; ``folder``: where its files go.

    The page has no error, asks for nothing, zooms, and is no wider than 390 and 1440 pixels. Skips
    the test without a browser.
    """
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(CHROMIUM)} is on the path: no browser opens the page")
    copy = folder / "looked_at.html"
    copy.write_text(page.read_text("utf-8").replace("<style>", LOOK + "<style>", 1), "utf-8")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1440,900",
         f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000", "--dump-dom",
         f"file://{copy}"],
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout)
    assert match, done.stderr
    found = json.loads(html.unescape(match[1]))
    assert found["errors"] == []
    assert found["requests"] == []
    assert found["zoomed"] == pytest.approx([250, 100, 500, 500], abs=1)
    assert found["whole"] == "0 0 1000 1000"
    assert max(found["overflow"]) <= 0
    return found
