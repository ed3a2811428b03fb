"""The agent beside a HAProxy: makes it do what the operator wants, and counts what it did."""
