"""Every solution of a formula in conjunctive normal form, for problems that are small.

It stands in for the package pycosat, under its name, where reasoning-gym is installed without it: pycosat has to be
compiled, and one task of 105 needs it, to see whether a puzzle has more than one solution. The order has no effect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import product

Clauses = Collection[Collection[int]]
"""Each is an "or" of literals: 3 is the third variable, -3 its opposite."""


def itersolve(clauses: Iterable[Iterable[int]]) -> Iterator[list[int]]:
    """Each solution as one literal for every variable; none where the clauses contradict each other."""
    kept = [tuple(clause) for clause in clauses]
    variables = sorted({abs(literal) for clause in kept for literal in clause})
    for chosen in _search(kept, frozenset()):
        free = [variable for variable in variables if variable not in chosen and -variable not in chosen]
        for signs in product((1, -1), repeat=len(free)):
            whole = chosen.union(sign * variable for sign, variable in zip(signs, free, strict=True))
            yield sorted(whole, key=abs)


def _search(clauses: Clauses, chosen: frozenset[int]) -> Iterator[frozenset[int]]:
    """The literals that satisfy all clauses, `chosen` among them; what they leave open may be either."""
    settled = _settled(clauses, chosen)
    if settled is None:
        return
    clauses, chosen = settled
    if not clauses:
        yield chosen
        return
    literal, *_ = min(clauses, key=len)
    for each in (literal, -literal):
        yield from _search(clauses, chosen | {each})


def _settled(clauses: Clauses, chosen: frozenset[int]) -> tuple[Clauses, frozenset[int]] | None:
    """What is left to satisfy once every clause of one open literal has decided it; None for a contradiction."""
    known = set(chosen)
    is_settled = False
    while not is_settled:
        is_settled, left = True, []
        for clause in clauses:
            if not known.isdisjoint(clause):
                continue
            match [literal for literal in clause if -literal not in known]:
                case []:
                    return None
                case [literal]:
                    known.add(literal)
                    is_settled = False
                case several:
                    left.append(several)
        clauses = left
    return clauses, frozenset(known)
