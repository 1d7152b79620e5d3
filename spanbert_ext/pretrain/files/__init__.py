"""Files that a run leaves or shares, what it prints, and numbers for people."""
