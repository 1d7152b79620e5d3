# SPDX-License-Identifier: Apache-2.0
"""The directive `command-help`: what `COMMAND --help` prints, from the command's own parser."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from unittest import mock

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class CommandHelp(SphinxDirective):
    """Its argument is a module with a `build_parser`; a second one names a subcommand."""

    required_arguments, optional_arguments = 1, 1

    def run(self) -> list[nodes.Node]:
        module = import_module(self.arguments[0])
        self.env.note_dependency(sys.modules[module.__name__].__file__)
        parser = module.build_parser()
        if len(self.arguments) > 1:
            parser = next(action for action in parser._actions if action.choices and action.dest == "task")
            parser = parser.choices[self.arguments[1]]
        with mock.patch.dict(os.environ, COLUMNS="100", NO_COLOR="1"):
            text = parser.format_help()
        return [nodes.literal_block(text, text, language="none")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
