"""From files of conversations to rows of tokens: read, clean, split, tokenize, keep.

Each module is one step; :mod:`tunesmith_trainer.prepare` puts them in order.
"""
