"""Policies (load, save, control tokens, forward passes) and the models that score text."""
