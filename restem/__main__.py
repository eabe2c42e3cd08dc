"""`python -m restem` is `restem`."""

from restem.cli.main import console

if __name__ == "__main__":
    console()
