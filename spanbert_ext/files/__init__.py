# SPDX-License-Identifier: Apache-2.0
"""What every command needs: files that are whole whatever happens, errors in one line."""
