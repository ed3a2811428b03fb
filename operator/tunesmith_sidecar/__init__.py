"""The proxy before every inference engine: one API, limits, metrics, drain, conversation log."""
