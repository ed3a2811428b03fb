"""Tokens by which pods know the operator: derived from the installation's key, so never stored.

Each deployment has its own, and another for each purpose. Pure; called by ``agents`` and for the
analysis by ``assembly``.
"""

import hmac
from hashlib import sha256


def router_token(key: str, deployment_uid: str) -> str:
    """Give the token of a deployment's router agents."""
    return _derive(key, deployment_uid)


def analysis_token(key: str, deployment_uid: str) -> str:
    """Give the token that golden prompts are asked with. It is worth nothing at an agent."""
    return _derive(key, f"analysis/{deployment_uid}")


def adapters_token(key: str, deployment_uid: str) -> str:
    """Give the token that pods are told with which adapters they serve."""
    return _derive(key, f"adapters/{deployment_uid}")


def _derive(key: str, text: str) -> str:
    return hmac.new(key.encode(), text.encode(), sha256).hexdigest()
