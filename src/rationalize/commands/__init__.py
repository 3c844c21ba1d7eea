"""The commands beside `train` and `demo`: a configuration in, library calls, files and tables out.

One module per command, named like it.
"""
