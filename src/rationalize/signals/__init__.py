"""Scored attempts in, what a learner reads out: bins, filters. numpy only."""
