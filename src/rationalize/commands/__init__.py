"""What the command line's verbs do, beside `train` and `demo`: configurations in, library calls,
files and tables out.
"""
