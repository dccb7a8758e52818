"""`python -m geotempo` is the command line."""

from geotempo.cli import main

if __name__ == "__main__":
    main()
