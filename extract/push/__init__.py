"""From local to cloud: what local has and cloud lacks is copied, and then the two are proven equal.

What equal means: month by month, each load package that local has finished is on cloud with the same number of rows,
the same keys and the same content, every row as often as here, and beside them lies nothing that no finished package
brought. Packages of cloud's own, which it extracted itself, stay and are counted apart: the two together are a union,
in which the same trade may come from both sides. So long as its newest version reads the same in both, that is one trade.
"""
