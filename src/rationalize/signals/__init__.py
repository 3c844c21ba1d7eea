"""From scored attempts to training signals: bins, ranks, pairs, filters, draws. numpy only."""
