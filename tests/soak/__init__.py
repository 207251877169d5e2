"""Attacks on stored runs and on the files that are read: few of each in `make test`, many in `make soak`."""
