"""How sure a score and a difference of scores are."""
