"""Operations: the only folder that enumerates callables.

In come functions as Python's operators and ``__torch_function__`` announce them, and names as graphs hold them. Out come the
names (`name_of`), the callables to run (`function_of`, and `evaluate` for whole segments) and what each does to its arguments
(`effect_of`): mutates this one, returns a view of that one, draws random numbers, or cannot be known.

The trick: all of it is one data file, ``table.tsv``, a row for each operation. ``tools/op_table.py`` derives it from torch's
schemas and corrects it by running the operations on samples; a new operation is a row, not code.
``portable.tsv`` says which of them may stand in graph files (`is_portable`).
"""
