"""What a method will do, stated from its configuration and the questions: replies written, steps
learned, texts read and weights stored, by stage. `planning/` prices it.
"""
