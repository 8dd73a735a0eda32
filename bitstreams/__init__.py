"""Manifests, register maps and hardware hand-off files by board."""
