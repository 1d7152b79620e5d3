# SPDX-License-Identifier: Apache-2.0
"""The directive `signature`, for readers of the Markdown, who see no autodoc: it shows nothing on the site."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Signature(SphinxDirective):
    has_content = True

    def run(self) -> list[nodes.Node]:
        return []


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("signature", Signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
