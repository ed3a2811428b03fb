"""Builders of child manifests: types in, JSON out, nothing else. Pure, like planning."""
