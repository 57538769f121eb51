"""A world, a corpus and a tiny model on which all of emoreg runs anywhere in minutes."""
