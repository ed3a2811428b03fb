"""Builders of everything that a ModelDeployment consists of. Pure, like all of resources.

``record`` and ``workload`` make a revision, ``router`` or ``gateway`` the way to it, and
``autoscaling`` its size; ``names`` says what all of it is called.
"""
