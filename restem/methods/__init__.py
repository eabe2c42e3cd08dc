"""What the published methods of the EM family add to the loop, as strategies that gin binds.

A method is a file in `gin/methods`; most methods need only settings of `em`, `generate`, `select`
and `improve`. The other methods need the strategies below, each a frozen dataclass with one method:

    hook                     strategies
    generate.extend          Rationalization, HumanSolutions, SearchUnsolved, MarkovChain
    generate.grading         WithoutGold
    select.keep              RisingThreshold, HumanWhereSolved
    select.weight            ControlVariate
    em.improve               ManyShot

`docs/methods.md` lists all methods and explains how to add one.
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
