"""From a grid file to a plan of trials."""
