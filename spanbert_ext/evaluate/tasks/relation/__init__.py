"""Relations between two marked spans."""
