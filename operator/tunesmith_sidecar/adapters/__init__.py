"""Adapters that come and go while a pod serves: fetched by digest, loaded into its engine."""
