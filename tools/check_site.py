# SPDX-License-Identifier: Apache-2.0
"""Whether a built site is whole: every link of its pages to a page, an anchor or a file of it leads there.

    python tools/check_site.py build/docs

Prints what does not, and ends with 1 then. Nothing is fetched: links to other sites are not followed.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LINKS = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src"}


class Page(HTMLParser):
    """The ids and the links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if given.get("id"):
            self.ids.add(given["id"] or "")
        link = given.get(_LINKS.get(tag, ""))
        if link:
            self.links.append(link)


def broken_links(folder: Path) -> list[str]:
    """PAGE: LINK of each that leads nowhere."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in folder.resolve().rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            whole = target.is_file() and (not anchor or target not in pages or anchor in pages[target].ids)
            if not whole:
                broken.append(f"{path.relative_to(folder.resolve())}: {link}")
    return broken


def main() -> int:
    folder = Path(sys.argv[1])
    if not (folder / "index.html").is_file():
        raise SystemExit(f"{folder} holds no site (no index.html)")
    broken = broken_links(folder)
    print("\n".join(broken) or f"{folder}: every link leads somewhere")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
