from .part import thrice

NAME = "side"
