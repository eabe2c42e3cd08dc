"""What the published methods of the EM family add to the loop, as strategies that gin binds.

A method is a file of `gin/methods`; most need nothing but settings of `em`, `generate`, `select`
and `improve`. What is left is here, each a frozen dataclass with one method, or a replacement of a
step:

    hook                     strategies
    generate.extend          Rationalization, HumanSolutions, SearchUnsolved, MarkovChain
    generate.grading         WithoutGold
    select.keep              RisingThreshold, HumanWhereSolved
    select.weight            ControlVariate
    improve_policy.improve   many_shot

`docs/methods.md` has the table of all methods, and how to add one.
"""

from restem.methods.experts import SearchUnsolved
from restem.methods.hidden_gold import WithoutGold
from restem.methods.human_solutions import HumanSolutions, HumanWhereSolved
from restem.methods.many_shot import many_shot
from restem.methods.markov_chain import ControlVariate, MarkovChain
from restem.methods.rationalization import Rationalization
from restem.methods.thresholds import RisingThreshold

__all__ = [
    "ControlVariate",
    "HumanSolutions",
    "HumanWhereSolved",
    "MarkovChain",
    "Rationalization",
    "RisingThreshold",
    "SearchUnsolved",
    "WithoutGold",
    "many_shot",
]
