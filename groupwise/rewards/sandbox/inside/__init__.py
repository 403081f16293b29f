"""The code inside a worker process: standard library only, and nothing of groupwise outside this folder.

The folder is shown to the sandbox as it is and loaded under a name of its own, so every import in it is relative.
"""
