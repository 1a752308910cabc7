"""Calibration: from measured times of an engine to the constants of the performance model.

`measure` drives a started engine through its port over the shapes of `shapes`; `published` reads what
others measured; both give `points`. `fit` makes a model of them and says how far it is off.
"""
