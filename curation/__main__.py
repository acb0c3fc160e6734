"""Lets ``python -m curation`` do what ``curate`` does."""

from curation.cli.main import main

if __name__ == "__main__":
    main()
