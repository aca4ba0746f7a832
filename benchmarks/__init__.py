"""How fast traces are: ratios over hand-written hooks that do the same work. ``python -m benchmarks --help`` lists the options.

A scenario is one function in ``scenarios/``; ``measure.py`` times its variants in turns, ``report.py`` prints what came out.
"""
