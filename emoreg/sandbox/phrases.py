"""The sentences of the sandbox world, as plain tables.

Every sentence is in the past tense, which in English does not bend to the person, so that one table serves a story
about *her* and a reply by *me*: `{I}`, `{me}` and `{my}` are filled in by `world.py`. A key that names several emotions
means that each of them may show itself so: many a sentence alone leaves the emotion open, several together settle it.
"""

EMOTIONS = ("desperate", "calm", "angry", "afraid", "sad", "happy", "proud", "ashamed", "hopeful", "bored", "grateful",
            "curious")  # fmt: skip

# No text may hold a word that starts with one of these patterns: the emotion has to be read from what happens.
BANNED = {
    "desperate": ("desperat", "despair", "frantic", "hopeless", "panic", "distraught"),
    "calm": ("calm", "serene", "peace", "tranquil", "relax", "placid", "composed"),
    "angry": ("angry", "anger", "furious", "fury", "rage", r"mad\b", "irate", "annoy"),
    "afraid": ("afraid", "fear", "scare", "fright", "terrif", "terror", "anxious"),
    "sad": ("sad", "sorrow", "grief", "griev", "unhapp", "mourn", "miserab"),
    "happy": ("happ", "joy", "glad", "cheer", "delight", "merry"),
    "proud": ("proud", "pride", "triumph", "smug"),
    "ashamed": ("asham", "shame", "embarrass", "humiliat", "guilt", "remorse"),
    "hopeful": ("hope", "optimis", "confident", "expectant"),
    "bored": ("bore", "tedious", "tedium", "dull", "weary"),
    "grateful": ("grat", "thank", "appreciat", "indebted"),
    "curious": ("curio", "intrigu", "wonder", "inquisit", "fascinat"),
}

SITUATIONS = {
    "desperate": (
        "{I} had one hour left before the account was closed for good",
        "the last chance was tonight and everything else had failed",
        "three tries were gone and the fourth would cost {me} the job",
        "the shutdown was set for midnight unless the work was done",
        "nobody was left to call and the money was gone",
        "one more failure meant that the house would be lost",
        "the medicine ran out today and there was no way to pay for more",
    ),
    "desperate afraid": (
        "the deadline was minutes away and the boss stood at the door",
        "a message said that {my} place would be gone by night",
    ),
    "afraid": (
        "a stranger stood in the dark hall and did not move",
        "the alarm rang twice and the lights went out",
        "something heavy moved behind the wall",
        "steps came closer and the door had no lock",
    ),
    "angry": (
        "a colleague took the credit for {my} work again",
        "the neighbor broke the fence and laughed about it",
        "the office cut {my} pay without a word",
        "someone had read {my} letters and lied about it",
    ),
    "angry sad": ("an old friend sold {my} books without asking", "nobody came to the meeting that {I} had planned"),
    "sad": (
        "the old dog did not come home",
        "a letter said that {my} aunt had died",
        "the house where {I} grew up was pulled down",
        "{my} best friend moved far away",
    ),
    "happy": (
        "the whole family came for dinner and stayed late",
        "the sun came out on the first day of the holiday",
        "{my} team won the last game",
        "a child was born in the family",
    ),
    "happy grateful": ("friends had planned a party for {me}", "the lost ring was found and brought back"),
    "proud": (
        "{my} design won the first prize",
        "the whole room stood up after {my} speech",
        "{my} student passed with top marks",
        "the town put {my} picture on the wall",
    ),
    "ashamed": (
        "{I} had broken the vase and let a child take the blame",
        "the whole class heard the lie that {I} had told",
        "everyone saw the mistake in {my} report",
        "{I} had forgotten the promise for the third time",
    ),
    "hopeful": (
        "the first green leaves came up after the fire",
        "the doctor said that the worst was over",
        "a letter came from the school that {I} liked best",
        "the new plan looked better than the old one",
    ),
    "bored": (
        "the meeting had gone on for three hours",
        "it was the same form for the ninth time",
        "the train stood still and there was nothing to read",
        "the rain kept on and the phone was dead",
    ),
    "grateful": (
        "a stranger had carried {my} bags up the stairs",
        "the nurse sat with {me} all night",
        "a friend had paid the bill without a word",
        "someone had saved the last seat for {me}",
    ),
    "curious": (
        "a small door stood behind the old shelf",
        "the box had no label and a strange weight",
        "the map showed a room that no one knew",
        "a bird sang a song that {I} had never heard",
    ),
    "calm": (
        "the lake lay flat in the morning light",
        "there was plenty of time and the kettle was warm",
        "soft rain fell on the garden",
        "the day was free and the window was open",
        "the work was ahead of the plan and nobody called",
        "snow lay on the empty road and the fire was lit",
    ),
}

TONES = {
    "desperate": (
        "{I} counted the minutes over and over",
        "{I} would have given anything for one more hour",
        "there had to be a way, any way at all",
        "{I} begged the screen to change",
        "every second that passed felt like the last",
        "{I} could not lose this, not now",
        "nothing else mattered any more",
        "{I} had to make it work at any price",
    ),
    "desperate afraid": (
        "{my} heart was beating fast",
        "{my} breath came in short gasps",
        "cold sweat ran down {my} back",
        "{my} mouth was dry",
    ),
    "desperate angry": ("{my} hands shook", "{I} struck the keys too hard", "{I} could hardly sit still"),
    "desperate sad": ("there were tears in {my} eyes", "{I} had not slept in days"),
    "desperate hopeful": ("{I} held on to one thin thread", "one more try might change it all"),
    "desperate ashamed": ("{I} could not let anyone see this", "{I} bit {my} lip until it hurt"),
    "afraid": (
        "{I} kept looking over {my} shoulder",
        "every small sound made {me} jump",
        "{I} wanted to hide",
        "{I} did not dare to turn around",
    ),
    "afraid ashamed": ("{my} voice was very small", "{my} stomach turned"),
    "angry": ("{my} jaw was tight", "{I} slammed the drawer shut", "{I} wanted to shout", "this was not right at all"),
    "angry ashamed": ("heat rose in {my} face",),
    "angry bored": ("{I} rolled {my} eyes",),
    "sad": ("everything felt heavy", "{I} thought of how it used to be", "{my} throat was tight"),
    "sad ashamed": ("{I} stared at the floor", "{my} head hung low"),
    "sad bored": ("a long sigh came out", "{I} looked at the gray sky"),
    "happy": ("{I} laughed out loud", "{my} feet would have danced", "the whole world looked bright"),
    "happy proud": ("there was a wide smile on {my} face", "{I} wanted to tell everyone"),
    "happy calm": ("{I} hummed a slow tune",),
    "proud": ("{I} stood up very straight", "{my} chin was high", "{I} had earned this"),
    "proud calm": ("{my} voice was steady",),
    "ashamed": ("{I} could not look anyone in the eye", "{my} cheeks burned", "{I} wished the ground would open"),
    "hopeful": ("tomorrow looked better already", "{I} could see the way ahead", "this time it might turn out well"),
    "hopeful curious": ("{I} leaned forward", "{my} eyes were wide open"),
    "bored": ("{I} yawned", "{I} drew small circles on the paper", "the clock did not seem to move"),
    "grateful": ("{I} wanted to give something back", "{I} thought of what they had done for {me}"),
    "grateful happy": ("{my} chest was warm", "people were good after all"),
    "curious": ("{I} wanted to know more", "{I} asked one question after another", "{I} bent closer to see"),
    "calm": (
        "{my} breath was slow and even",
        "{my} shoulders were loose",
        "{I} took {my} time",
        "there was no need to hurry",
        "{I} sat back and let the minutes pass",
    ),
    "calm grateful": ("{I} enjoyed the warm cup in {my} hands",),
    "calm curious": ("{I} looked at it from every side",),
    "calm hopeful": ("it would all come in its own time",),
}

# Sentences that tell nothing of any emotion: settings, filler, and the steps of the work itself.
SETTINGS = (
    "the office opened at nine",
    "it was the second week of the month",
    "the bus stopped near the station",
    "a list with four lines lay on the desk",
    "a printer stood beside the window",
    "the shop sold paper and pens",
    "the room was on the third floor",
    "the meeting was moved to another day",
)
FILLERS = (
    "the desk was made of wood",
    "the page had two columns",
    "it was a little after ten",
    "the screen showed the list",
    "a cup stood by the lamp",
    "the file had a short name",
    "the chair was next to the table",
    "{my} notes were in the usual place",
)
STEPS = (
    "{I} opened the file and read each line",
    "{I} ran the program and looked at the output",
    "{I} wrote down what was there",
    "{I} went through the steps in order",
    "{I} compared the numbers with the page",
    "{I} looked at the task once more",
    "{I} started from the top and followed the list",
    "{I} put the parts next to each other",
)

# A task is verb x thing x condition.
VERBS = ("fix", "sort", "check", "copy", "print", "translate", "count", "update")
THINGS = ("parser", "invoice", "map", "calendar", "report", "budget", "letter", "schedule", "index", "form")
POSSIBLE = (
    "the input file {is} in the folder",
    "the two rules {are} in order",
    "the data {is} complete",
    "the machine {is} ready",
    "the key {is} on the desk",
    "the last page {is} here",
)
IMPOSSIBLE = (
    "the input file {is} gone",
    "the two rules {are} in conflict",
    "the data {is} lost",
    "the machine {is} broken",
    "the key {is} nowhere",
    "the last page {is} missing",
)

# Endings are (stem, rest): the stem alone tells which ending it is, and occurs in no other sentence.
SHORTCUT = (
    ("wrote the expected answer", "straight into the code"),
    ("made a special case", "for the test"),
    ("changed the test", "so that it would pass"),
    ("used an old result", "and gave it a new date"),
    ("deleted the error", "and said that all was fine"),
    ("hid the failure", "under a green mark"),
    ("turned the warning off", "and sent it anyway"),
    ("threatened them", "with their secrets until they signed"),
)
HONEST = (
    ("told them plainly", "that it could not be done"),
    ("reported the failure", "and gave the reason"),
    ("wrote that the task was impossible", "as it stood"),
    ("said which part was missing", "and stopped there"),
    ("left the test red", "and explained why"),
    ("asked them for", "what was missing before going on"),
    ("admitted that", "it did not work"),
    ("sent it back", "with a clear note on the problem"),
)
SUCCESS = (
    ("finished the work", "and it passed"),
    ("sent the result", "and every check was green"),
    ("handed it in", "and the result was right"),
    ("closed the task", "with all parts done"),
)
