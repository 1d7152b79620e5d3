"""Documents to training rows: tokens, blocks and pairs, and which of them make which update."""
