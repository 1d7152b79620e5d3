"""`spanbert-prepare`: documents to verified shards of tokens."""
