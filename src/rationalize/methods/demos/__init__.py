"""The demos of the three systems, as rows on the experiment driver."""
