"""regularizer."""
