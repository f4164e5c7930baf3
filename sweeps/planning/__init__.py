"""Planning: reads a grid file and expands it into a plan of trials."""
