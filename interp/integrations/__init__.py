"""Recorders as callbacks of other trainers: Hugging Face's Trainer (`transformers`), Lightning (`lightning`).

Each is a module that imports its library, and is imported by nobody but its user.
"""
