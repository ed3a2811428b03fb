"""``python -m tunesmith_sidecar``."""

from tunesmith_sidecar.main import main

if __name__ == "__main__":
    main()
