"""Everything that surrounds Tunesmith in a trial: a cluster, images, S3, the demo.

Nothing here is part of the product. The operator and the trainer never import it; the Makefile
and the tests do. Start reading at ``demo.py``.
"""
