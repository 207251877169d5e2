"""A mechanistic interpretability toolkit for grokking."""
