"""Small classifiers on a frozen encoder."""
