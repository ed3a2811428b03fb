"""The stand-in's image: ``engine.py`` alone, on Python."""
