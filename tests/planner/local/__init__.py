"""The scale target on this machine, against a launcher on its real port."""
