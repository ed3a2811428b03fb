"""EDGE: talks to the pods of the HAProxy router. Decides nothing."""
