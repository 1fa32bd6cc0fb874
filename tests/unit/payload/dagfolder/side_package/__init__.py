from .part import thrice as thrice

NAME = "side"
