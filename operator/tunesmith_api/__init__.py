"""The contract: every resource, file and message that two parts of Tunesmith exchange.

Only pydantic types and the code that turns them into CRDs; no clock, network, Kubernetes
client or trainer. The operator, the trainer, the sidecar and the CLI all import it, it
imports none of them.
"""

GROUP = "tunesmith.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

__all__ = ["API_VERSION", "GROUP", "VERSION"]
