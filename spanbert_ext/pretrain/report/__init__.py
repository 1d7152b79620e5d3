"""`spanbert-report`: runs side by side, in the terminal and on a page."""
