"""`make demo`: the whole job on sounds whose truth is known."""
