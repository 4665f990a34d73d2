"""Preparation of data sets: one module per data set, each with `prepare(root, out, ...) -> Summary`.

The other modules are what they share: `listings` reads published tables and locates clips, `packing` decodes clips
into a store, `summary` writes a corpus, `grouping` makes folds, `mixing` mixes events over backgrounds.
"""
