"""Data sets, and the order in which problems are drawn."""

from groupwise.data.curriculum import Seen
from groupwise.data.load import load_problems
from groupwise.data.order import Draw, Order
from groupwise.data.pools import PoolRules, Pools
from groupwise.data.prepare import PreparedProblems, prepare
from groupwise.data.problems import RESERVED_COLUMNS, Problems

__all__ = [
    "RESERVED_COLUMNS",
    "Draw",
    "Order",
    "PoolRules",
    "Pools",
    "PreparedProblems",
    "Problems",
    "Seen",
    "load_problems",
    "prepare",
]
