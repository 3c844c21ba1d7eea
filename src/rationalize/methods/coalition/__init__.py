"""COALITION (arXiv 2503.02463): `algorithm.py` has its steps in order, `inference.py` uses it."""
