"""Policies: load, save, control tokens, forward passes; and the scorers that read with them."""
