"""``tunesmith``: the same fine-tuning without a cluster, on this machine.

Stands on the trainer and the contract; knows no Kubernetes, no operator. Start to read at ``main``.
"""
