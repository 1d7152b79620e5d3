# SPDX-License-Identifier: Apache-2.0
"""What the HTML pages of several commands share: colours and style, charts as SVG."""
