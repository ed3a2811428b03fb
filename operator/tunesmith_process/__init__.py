"""How the processes of our pods start: settings and logs. Knows nothing of what they do."""
