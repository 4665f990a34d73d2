"""Day-long recordings, and folders with broken files: what a run over them needs and survives."""
