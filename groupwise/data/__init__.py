"""Data sets, and the order in which problems are drawn."""

from groupwise.data.load import load_problems
from groupwise.data.order import Draw, Order
from groupwise.data.prepare import PreparedProblems, prepare
from groupwise.data.problems import RESERVED_COLUMNS, Problems

__all__ = ["RESERVED_COLUMNS", "Draw", "Order", "PreparedProblems", "Problems", "load_problems", "prepare"]
