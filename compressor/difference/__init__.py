"""Where two artifacts decide differently: on the images there are, and on images searched for near their boundaries."""

from compressor.difference.given import Given, compare_given
from compressor.difference.search import Found, Search, search
from compressor.difference.sides import SURE, TIE, Answers, Side

__all__ = ["SURE", "TIE", "Answers", "Found", "Given", "Search", "Side", "compare_given", "search"]
