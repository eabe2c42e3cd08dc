"""Templates of word problems with one or two steps.

In a template, `{a}` and `{b}` are the operands and `{c}` is the result (`{d}` is the third operand
of two steps); `{n}` and `{m}` are two names; `{he}`, `{He}`, `{him}` and `{his}` are pronouns of
the first; `{o}` is a plural noun. A template is (question, reasoning), and an equation follows the
reasoning. Operands are at least 2, so that plurals are right. The plainest stories come first.
"""

PEOPLE = (
    ("Anna", "she"), ("Ben", "he"), ("Clara", "she"), ("David", "he"), ("Elena", "she"),
    ("Felix", "he"), ("Grace", "she"), ("Henry", "he"), ("Iris", "she"), ("Jacob", "he"),
    ("Kate", "she"), ("Liam", "he"), ("Maria", "she"), ("Noah", "he"), ("Olga", "she"),
    ("Paul", "he"), ("Rosa", "she"), ("Samuel", "he"), ("Tina", "she"), ("Victor", "he"),
    ("Wendy", "she"), ("Omar", "he"), ("Priya", "she"), ("Kenji", "he"), ("Amina", "she"),
    ("Diego", "he"), ("Ingrid", "she"), ("Mateo", "he"), ("Nadia", "she"), ("Tomas", "he"),
)  # fmt: skip

PRONOUNS = {"he": ("he", "him", "his"), "she": ("she", "her", "her")}

# Things that a person can own, carry, give, buy and lose.
THINGS = (
    "apples", "marbles", "stickers", "pencils", "books", "cookies", "shells", "stamps", "coins",
    "balloons", "buttons", "cards", "candles", "crayons", "erasers", "flowers", "lemons", "oranges",
    "peaches", "pears", "photos", "plums", "postcards", "ribbons", "stones", "toy cars", "tickets",
    "walnuts", "beads", "muffins",
)  # fmt: skip

ADD = (
    (
        "{n} has {a} {o}. {m} gives {him} {b} more. How many {o} does {n} have now?",
        "{n} starts with {a} {o} and gets {b} more.",
    ),
    (
        "{n} collected {a} {o} on Monday and {b} {o} on Tuesday. "
        "How many {o} did {he} collect in all?",
        "{n} collected {a} on the first day and {b} on the second.",
    ),
    (
        "{n} bought {a} red {o} and {b} blue {o}. How many {o} did {he} buy?",
        "{n} bought {a} red and {b} blue {o}.",
    ),
    (
        "{n} put {a} {o} on a shelf. Then {he} put {b} more there. "
        "How many {o} are on the shelf now?",
        "There were {a} {o} on the shelf and {b} were added.",
    ),
    (
        "There are {a} {o} in a box and {b} {o} in a bag. How many {o} are there in all?",
        "There are {a} in the box and {b} in the bag.",
    ),
    (
        "{n} has {a} {o} and {m} has {b} {o}. How many {o} do they have together?",
        "{n} has {a} and {m} has {b}.",
    ),
    (
        "A shop sold {a} {o} on Saturday and {b} {o} on Sunday. "
        "How many {o} did it sell on the two days?",
        "The shop sold {a} on one day and {b} on the other.",
    ),
    (
        "There were {a} people on a bus. At the next stop {b} more people got on. "
        "How many people are on the bus now?",
        "There were {a} people and {b} more came.",
    ),
    (
        "{n} read {a} pages yesterday and {b} pages today. How many pages did {he} read?",
        "{n} read {a} pages and then {b} more.",
    ),
    (
        "A farmer has {a} cows and {b} sheep. How many animals does the farmer have?",
        "There are {a} cows and {b} sheep.",
    ),
    (
        "{n} is {a} years old. How old will {he} be in {b} years?",
        "{n} is {a} now and will be {b} years older.",
    ),
    (
        "{n} walked {a} miles in the morning and {b} miles in the afternoon. "
        "How many miles did {he} walk?",
        "{n} walked {a} miles and then {b} miles.",
    ),
    (
        "After giving {b} {o} to {m}, {n} has {a} left. How many {o} did {n} have at first?",
        "{n} has {a} now and gave away {b}.",
    ),
    (
        "{n} has {a} {o}. {m} has {b} more than {n}. How many {o} does {m} have?",
        "{n} has {a} and {m} has {b} more.",
    ),
    (
        "A class has {a} girls and {b} boys. How many children are in the class?",
        "There are {a} girls and {b} boys.",
    ),
    (
        "A lamp costs ${a} and a pillow costs ${b}. How many dollars do they cost together?",
        "The lamp costs {a} dollars and the pillow {b} dollars.",
    ),
)

SUBTRACT = (
    (
        "There were {a} {o} on a table. {n} took {b} of them. How many {o} are still there?",
        "There were {a} {o} and {b} were taken.",
    ),
    (
        "{n} had {a} {o} but lost {b} of them. How many {o} remain?",
        "{n} had {a} and lost {b}.",
    ),
    (
        "A shop had {a} {o}. It sold {b} of them today. How many {o} were not sold?",
        "The shop had {a} {o} and sold {b}.",
    ),
    (
        "A rope is {a} meters long. {n} cuts off {b} meters. How many meters of rope are left?",
        "The rope was {a} meters long and {b} meters are cut off.",
    ),
    (
        "{n} has {a} {o}. {He} gives {b} of them to {m}. How many {o} are left for {n}?",
        "{n} had {a} {o} and gave away {b}.",
    ),
    (
        "{n} has {a} {o} and {m} has {b} {o}. How many more {o} does {n} have than {m}?",
        "{n} has {a} and {m} has {b}.",
    ),
    (
        "There were {a} people on a bus. At a stop {b} of them got off. "
        "How many people stayed on the bus?",
        "There were {a} people and {b} left.",
    ),
    (
        "A book has {a} pages. {n} has read {b} of them. How many pages are left to read?",
        "The book has {a} pages and {b} are read.",
    ),
    (
        "{n} is {a} years old and {m} is {b} years old. How many years older is {n}?",
        "{n} is {a} and {m} is {b}.",
    ),
    (
        "{n} had ${a} and spent ${b}. How many dollars does {he} have now?",
        "{n} had {a} dollars and spent {b}.",
    ),
    (
        "A class has {a} children. {b} of them are girls. How many are boys?",
        "There are {a} children and {b} are girls.",
    ),
    (
        "{n} needs {a} {o}. {He} already has {b}. How many more does {he} need?",
        "{n} needs {a} and has {b}.",
    ),
    (
        "Of the {a} {o} in a bag, {b} are green and the rest are yellow. How many are yellow?",
        "There are {a} {o} and {b} of them are green.",
    ),
    (
        "{n} and {m} have {a} {o} together. {b} of them belong to {m}. How many belong to {n}?",
        "Together they have {a} and {m} has {b}.",
    ),
    (
        "A trip is {a} miles long. {n} has driven {b} miles. How many miles are left?",
        "The trip is {a} miles and {b} miles are done.",
    ),
    (
        "There were {a} birds in a tree. Then {b} of them flew away. How many birds stayed?",
        "There were {a} birds and {b} flew away.",
    ),
)

MULTIPLY = (
    (
        "There are {a} boxes with {b} {o} in each box. How many {o} are there in all?",
        "There are {a} boxes of {b} {o}.",
    ),
    (
        "{n} reads {b} pages a day. How many pages does {he} read in {a} days?",
        "{n} reads {b} pages on each of {a} days.",
    ),
    (
        "{a} children have {b} {o} each. How many {o} do they have together?",
        "There are {a} children with {b} {o} each.",
    ),
    (
        "A hall has {a} tables with {b} chairs at each table. How many chairs are there?",
        "There are {a} tables with {b} chairs each.",
    ),
    (
        "{n} buys {a} bags of {o}. Each bag holds {b} {o}. How many {o} does {he} buy?",
        "{n} buys {a} bags with {b} {o} each.",
    ),
    (
        "A ticket costs ${b}. How many dollars do {a} tickets cost?",
        "There are {a} tickets at {b} dollars each.",
    ),
    (
        "A garden has {a} rows of {b} trees. How many trees are in the garden?",
        "There are {a} rows of {b} trees.",
    ),
    (
        "{n} earns ${b} an hour. How many dollars does {he} earn in {a} hours?",
        "{n} earns {b} dollars in each of {a} hours.",
    ),
    (
        "A train runs {b} miles in an hour. How many miles does it run in {a} hours?",
        "The train runs {b} miles in each of {a} hours.",
    ),
    (
        "{n} has {b} {o}. {m} has {a} times as many. How many {o} does {m} have?",
        "{m} has {a} times {b} {o}.",
    ),
    (
        "{n} fills {a} plates with {b} {o} on each plate. How many {o} are on the plates?",
        "There are {a} plates of {b} {o}.",
    ),
    (
        "A house has {a} floors with {b} windows on each floor. How many windows does it have?",
        "There are {a} floors with {b} windows each.",
    ),
    (
        "{n} swims {b} laps every day. How many laps does {he} swim in {a} days?",
        "{n} swims {b} laps on each of {a} days.",
    ),
    (
        "A machine makes {b} toys in a minute. How many toys does it make in {a} minutes?",
        "The machine makes {b} toys in each of {a} minutes.",
    ),
)

DIVIDE = (
    (
        "{n} shares {c} {o} equally among {a} friends. How many {o} does each friend get?",
        "{c} {o} are split into {a} equal parts.",
    ),
    (
        "{c} {o} are packed into boxes of {a}. How many boxes are filled?",
        "Each box takes {a} of the {c} {o}.",
    ),
    (
        "{a} tickets cost ${c}. How many dollars does one ticket cost?",
        "{c} dollars pay for {a} tickets.",
    ),
    (
        "{n} reads {a} pages a day. How many days does {he} need for a book of {c} pages?",
        "{n} reads {a} of the {c} pages each day.",
    ),
    (
        "A rope of {c} meters is cut into {a} equal pieces. How many meters long is each piece?",
        "{c} meters are cut into {a} equal pieces.",
    ),
    (
        "{c} children form teams of {a}. How many teams are there?",
        "Each team takes {a} of the {c} children.",
    ),
)

# Two steps: (question, words of the first step, words of the second step).
ADD_THEN_SUBTRACT = (
    (
        "{n} has {a} {o}. {m} gives {him} {b} more, and then {n} loses {d}. "
        "How many {o} does {n} have now?",
        "{n} first has", "After the loss {he} has",
    ),
    (
        "There were {a} people on a bus. At a stop {b} people got on and {d} got off. "
        "How many people are on the bus now?",
        "With those who got on there are", "Without those who got off there are",
    ),
    (
        "{n} earned ${a} on Friday and ${b} on Saturday. On Sunday {he} spent ${d}. "
        "How many dollars are left?",
        "{n} earned", "After spending there remain",
    ),
    (
        "A shop had {a} {o}, received {b} more and sold {d}. How many {o} does it have now?",
        "Before the sale the shop had", "After it the shop has",
    ),
)  # fmt: skip

MULTIPLY_THEN_ADD = (
    (
        "{n} buys {a} bags of {b} {o}. {He} already had {d}. How many {o} does {he} have now?",
        "The bags hold", "With those {he} had there are",
    ),
    (
        "A hall has {a} rows of {b} chairs and {d} more chairs at the door. "
        "How many chairs are there?",
        "The rows have", "With those at the door there are",
    ),
    (
        "{n} earns ${b} an hour. {He} works {a} hours and gets a tip of ${d}. "
        "How many dollars does {he} get in all?",
        "The hours pay", "With the tip this makes",
    ),
    (
        "{n} reads {b} pages a day for {a} days and {d} pages on the next day. "
        "How many pages does {he} read?",
        "The first days give", "With the last day there are",
    ),
)  # fmt: skip
