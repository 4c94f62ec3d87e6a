"""A headless browser that says how a page lays out at a given width."""

import html
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_MEASURE = """
<!DOCTYPE html><html><body style="margin:0"><iframe id="page" style="border:0;width:{width}px;height:900px"
srcdoc="{page}"></iframe><script>
const frame = document.getElementById("page");
frame.addEventListener("load", () => {{
  const page = frame.contentDocument;
  page.querySelectorAll("details").forEach((d) => {{ d.open = true; }});
  const inside = (element) => {{
    for (let e = element; e; e = e.parentElement)
      if (["auto", "scroll", "hidden"].includes(frame.contentWindow.getComputedStyle(e).overflowX)) return true;
    return false;
  }};
  const all = [...page.body.querySelectorAll("*")];
  const wide = all.filter((e) => e.getBoundingClientRect().right > {width} + 1 && !inside(e));
  const images = [...page.images];
  const result = {{
    width: page.documentElement.clientWidth,
    scroll_width: page.documentElement.scrollWidth,
    too_wide: wide.map((e) => e.outerHTML.slice(0, 120)),
    images: images.length,
    broken: images.filter((i) => !i.complete || i.naturalWidth === 0).map((i) => i.alt),
    without_alt: images.filter((i) => !i.alt).length,
    clipped: images.filter((i) => i.getBoundingClientRect().width > {width}).map((i) => i.alt),
    text: page.body.innerText,
    resources: frame.contentWindow.performance.getEntriesByType("resource").map((r) => r.name),
  }};
  const out = document.createElement("pre");
  out.id = "result";
  out.textContent = JSON.stringify(result);
  document.body.replaceChildren(out);
}});
</script></body></html>
"""


def find_browser() -> str:
    """Path of a Chromium on this machine; the test is skipped where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        path = shutil.which(name)
        if path:
            return path
    pytest.skip("no Chromium on this machine (Debian: apt-get install chromium); pages cannot be laid out")


def layout(page: Path, width: int, folder: Path) -> dict[str, Any]:
    """Lay out `page` in a frame of `width` CSS pixels and measure it; `folder` holds the browser's files."""
    browser = find_browser()
    folder.mkdir(exist_ok=True)
    wrapper = folder / "wrapper.html"
    content = html.escape(page.read_text(encoding="utf-8"), quote=True)
    wrapper.write_text(_MEASURE.format(width=width, page=content), encoding="utf-8")
    done = subprocess.run(
        [
            browser,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
            *(f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000", "--window-size=1400,1000"),
            *("--dump-dom", wrapper.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    start = done.stdout.find('<pre id="result">')
    assert start >= 0, f"the page was not laid out:\n{done.stderr[-2000:]}"
    found = done.stdout[start + len('<pre id="result">') : done.stdout.index("</pre>", start)]
    measured: dict[str, Any] = json.loads(html.unescape(found))
    return measured
