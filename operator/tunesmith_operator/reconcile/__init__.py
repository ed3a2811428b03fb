"""The shell: observe, decide, act, write status; and the queue that says whose turn it is."""
