# SPDX-License-Identifier: Apache-2.0
"""`spanbert-report`: runs side by side, in the terminal and on a page."""
