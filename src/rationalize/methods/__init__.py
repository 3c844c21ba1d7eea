"""One file per row of the table of methods, and one per trained scorer."""
