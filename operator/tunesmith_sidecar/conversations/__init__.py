"""The conversation log: what was asked and answered, masked, in S3, fit to be trained on.

``log`` keeps what waits and decides when to write; ``lines`` makes a line out of an exchange;
``masking`` takes personal data out; ``bucket`` writes, and is the only importer of boto3. Nothing
here may make a client wait or fail.
"""
