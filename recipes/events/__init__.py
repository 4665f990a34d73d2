"""Events of everyday sounds at known times over real ambiences, as a user meets them."""
