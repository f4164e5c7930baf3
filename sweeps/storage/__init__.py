"""What trials leave behind, and where: records, the trial store, image sets."""
