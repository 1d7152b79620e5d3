# SPDX-License-Identifier: Apache-2.0
"""Relations between two marked spans."""
