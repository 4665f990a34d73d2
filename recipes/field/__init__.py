"""Field work: day-long recordings, and folders with broken files."""
