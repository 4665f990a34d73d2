"""Damaged files of every kind the library reads: none may crash it, hang it, or pass for whole."""
