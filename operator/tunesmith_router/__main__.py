"""``python -m tunesmith_router``."""

from tunesmith_router.main import main

if __name__ == "__main__":
    main()
