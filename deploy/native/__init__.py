"""A one-node Kubernetes on a bare Linux machine: no Docker, nothing downloaded but sources.

``binaries`` builds it, ``apiserver`` runs only etcd and the API server (for tests), ``cluster``
runs all of it, ``leftovers`` removes what an earlier one left behind.
"""
