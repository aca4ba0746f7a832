"""After a block: the names of its frame, and what they reach, get values in place of the proxies that stood for them.

In: a frame, where the block stands in it, and a function that gives the value of a proxy. Out: nothing; names and containers hold other
objects. It knows neither torch nor proxies.

The trick: whether there is anything left to look for is seen from the number of references to what was saved. So containers, which may be
large, are walked only while one of them holds a saved proxy.
"""
