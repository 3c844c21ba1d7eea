"""What a run will take: its work (`methods/work`) priced by what was measured on this machine, or
by the figures of another one.
"""
