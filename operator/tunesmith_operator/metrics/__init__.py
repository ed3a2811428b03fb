"""The edge to what measures: the trainers' own answers now, Prometheus later."""
