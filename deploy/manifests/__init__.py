"""Kubernetes manifests of the demo's surroundings, with ``${NAME}`` where values go."""
