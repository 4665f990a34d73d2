"""How fast the library is, against plain references in the same run."""
