"""Python control flow on traced values -> regions, by rewriting a block from its source before its first line.

In: the frame that enters a block, and an :class:`Emitter`. ``decide(frame).block(frame)`` is None where the block runs natively: one
look-up. Else the native body is skipped (``block.arm()``), and ``__exit__`` runs the rewritten one:
``if block is not None and block.skipped(error): block.run(target, emitter)``.
Out: calls of the emitter; the names of the frame, as plain Python would have left them.

The trick: the rewritten body is one flat function over cells, with each statement once. ``if x:`` becomes a loop over the branches
to run, one for a plain ``x``, both for a traced one; what differs between the snapshots of the names is merged.
"""

from .block import BY_HAND, Block, decide, forget_skip, why_native
from .emitter import UNBOUND, Emitter

__all__ = ["BY_HAND", "Block", "Emitter", "UNBOUND", "decide", "forget_skip", "why_native"]
