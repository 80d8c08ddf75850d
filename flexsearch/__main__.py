"""`python -m flexsearch` is `flexsearch`."""

from flexsearch.cli import main

if __name__ == "__main__":
    main()
