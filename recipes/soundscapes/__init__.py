"""N_S against strong label assumption training on soundscapes whose truth is known."""
