"""Where two artifacts decide differently: on the images there are, and on images searched for near their boundaries."""

from compressor.difference.given import Given, compare_given
from compressor.difference.search import Found, Search, search
from compressor.difference.sides import SURE, TIE, PairLogits, Side

__all__ = ["SURE", "TIE", "Found", "Given", "PairLogits", "Search", "Side", "compare_given", "search"]
