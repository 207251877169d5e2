"""Small runs of every kind, written once and never again, with what was read from them then."""
