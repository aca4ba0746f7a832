"""What a test must not leave behind: hooks, replaced functions, modes, threads, handlers.

In comes a moment before a test and the moment after it; out come lines that name what is there now and was not before. Modules are
known without patching torch and without a search through memory: torch calls a registration hook with every module that gets a parameter,
a buffer, a child or a parent. The few others are found by one search per test file.
"""
