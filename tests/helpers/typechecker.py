"""The type checker of the import hook in `conftest.py`."""

from beartype import BeartypeConf, beartype

# An int may stand for a float, as PEP 484 has it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
