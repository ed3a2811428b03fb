"""What is measured of a model, a module each: questions, answers, and what is made of them.

Called by `evaluation`. None of them changes weights or the state of random generators.
"""
