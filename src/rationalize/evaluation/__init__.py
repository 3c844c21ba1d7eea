"""What attempts are worth: metrics, intervals, comparisons, diagnostics. No torch needed."""
