# SPDX-License-Identifier: Apache-2.0
"""Small classifiers on a frozen encoder."""
