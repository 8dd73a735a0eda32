"""Measurements on this computer, each against a peer in the same run."""
