"""EDGE: talks to pods of ours: routers, and those that adapters share. Decides nothing."""
