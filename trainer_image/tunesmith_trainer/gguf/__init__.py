"""The model as one GGUF file, which llama.cpp and what is built on it load.

`families` says which models can be written and how their parts are called, `vocabulary` turns the
tokenizer into metadata, `file` writes. Called by `prepare`, `recipe` and `publish`. Nothing here
may need torch before there are weights to write: `prepare` runs the checks.
"""
