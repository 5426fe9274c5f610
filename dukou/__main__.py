"""``python -m dukou``: the same as the ``dukou`` command."""

from dukou.cli import main

if __name__ == "__main__":
    main()
