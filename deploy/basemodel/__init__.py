"""Turns a model that a Python package carries into the base model of the demo.

``prepare`` is called by the demo; ``convert`` runs in a Python of its own that has numpy.
"""
