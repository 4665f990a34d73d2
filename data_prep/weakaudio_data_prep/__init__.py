"""Data sets become corpora: one file a data set, each with `prepare(root, out, ...) -> Summary`."""
