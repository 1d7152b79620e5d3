"""Files that are whole whatever happens, and words for people."""
