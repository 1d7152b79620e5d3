# SPDX-License-Identifier: Apache-2.0
"""`spanbert-prepare`: documents to verified shards of tokens."""
