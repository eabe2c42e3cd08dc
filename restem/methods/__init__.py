"""What the published methods of the EM family add to the loop, as strategies that gin binds.

A method is a file of `gin/methods`; most need nothing but settings of `em`, `generate`, `select`
and `improve`. What remains is here, each a frozen dataclass with one method:

    hook                     strategies
    generate.extend          Rationalization, HumanSolutions, SearchUnsolved, MarkovChain
    generate.grading         WithoutGold
    select.keep              RisingThreshold, HumanWhereSolved
    select.weight            ControlVariate
    em.improve               ManyShot

`docs/methods.md` has the table of all methods, and how to add one.
"""

from restem.methods.experts import SearchUnsolved
from restem.methods.hidden_gold import WithoutGold
from restem.methods.human_solutions import HumanSolutions, HumanWhereSolved
from restem.methods.many_shot import ManyShot
from restem.methods.markov_chain import ControlVariate, MarkovChain
from restem.methods.rationalization import Rationalization
from restem.methods.thresholds import RisingThreshold

__all__ = [
    "ControlVariate",
    "HumanSolutions",
    "HumanWhereSolved",
    "ManyShot",
    "MarkovChain",
    "Rationalization",
    "RisingThreshold",
    "SearchUnsolved",
    "WithoutGold",
]
