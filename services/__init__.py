"""Baton's services: the rooms of the house, one package each; `docs/ARCHITECTURE.md` draws the arrows."""
