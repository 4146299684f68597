"""`python -m lightfill ...` is the `lightfill` command."""

from .engine.cli import main

if __name__ == "__main__":
    main()
