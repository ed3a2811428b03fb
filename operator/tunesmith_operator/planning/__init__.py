"""The pure core: what was seen (frozen), what to do about it (data), and nothing else.

No clock, chance, environment, network or Kubernetes client may be imported here; time and
configuration are arguments. import-linter holds it.
"""
