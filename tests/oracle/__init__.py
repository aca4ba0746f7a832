"""The oracle: random traces on random modules, evaluated a second time by raw PyTorch hooks.

In: a seed. Out: what the contract says about the program of that seed (values, or which error), what the library made of it, and
the first difference. The trick: what sites deliver is found as a fixpoint of whole forwards. The lines of a program are executed
natively, in program order, on private copies of what the sites delivered; what stands at each site in the end is put there by a raw
hook in the next forward; when the delivered values no longer change, the native execution *is* the meaning of the trace.

`modules` makes modules, `programs` states programs, `generate` draws them, `forward` runs a model under raw hooks, `native` is the
meaning, `traced` goes through the library, `verdict` compares and shrinks. A new capability is a new statement type in `programs`,
one handler in `native`, one draw in `generate`. By hand: `python -m tests.oracle 17` answers, runs, compares and shrinks seed 17.
"""
