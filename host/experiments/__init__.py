"""Comparisons of methods, repeatable by one command each."""
