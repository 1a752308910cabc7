"""The user's documentation: made from the code where it can be, and never behind it."""
