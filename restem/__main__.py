"""`python -m restem` is `restem`."""

from restem.main import console

if __name__ == "__main__":
    console()
