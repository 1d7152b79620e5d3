"""What each head of a model fills into masked spans of a text."""
