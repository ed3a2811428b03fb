"""The edge to what measures: trainers, serving pods, Prometheus, webhooks, judges."""
