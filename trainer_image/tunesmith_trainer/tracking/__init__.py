"""The learning curve for people's tools: TensorBoard's files, MLflow, Weights & Biases.

`session` is what the rest of the trainer sees. Nothing here may hold up or end training.
"""
