"""What the stories are about, and whom: everyday matters in which anyone can feel anything."""

TOPICS = (
    *("moving into a new flat", "a bus that comes late", "cooking for guests", "repairing a bicycle"),
    *("the first day in a new job", "a letter from the landlord", "packing for a journey", "a phone left on a train"),
    *("sorting old photographs", "a swimming lesson", "a neighbour's dog", "the last week before an exam"),
    *("a walk to the shops", "a broken washing machine", "a family meal on a Sunday", "a shift in a hospital"),
    *("planting a vegetable bed", "waiting at an airport", "a choir rehearsal", "a class outing"),
    *("a stall at the market", "painting a bedroom", "a power cut in the evening", "a visit to the dentist"),
    *("learning to drive", "a chess match", "a long queue at the post office", "a wedding in the village"),
    *("a meeting about the budget", "a night on a campsite", "a found wallet", "baking bread before dawn"),
    *("a haircut", "a snowfall in the night", "a lost key", "a talk in front of a class"),
    *("a week of night shifts", "an old car on a steep road", "a birthday", "a job interview"),
    *("clearing out a cellar", "a ferry crossing", "a football match in the rain", "a call from an old friend"),
    *("a garden at the end of summer", "a leaking roof", "a library on a weekday", "a sick cat"),
    *("an unfinished essay", "the sale of a house", "a concert in the park", "a delivery to the wrong address"),
    *("a hike in the hills", "a restaurant kitchen", "the results of a test", "a child's first day at school"),
    *("a suitcase that does not arrive", "a harvest", "a knock at the door", "a secondhand piano"),
    *("a reunion after many years", "a missed call", "the closing of a small shop", "a day at the beach"),
    *("an unsent message", "a bank appointment", "a borrowed coat", "a card game on a rainy afternoon"),
    *("a flat tyre on the motorway", "a yoga class", "a town council vote", "an early train"),
    *("a beehive", "a half-built boat", "a translation due on Friday", "an election count"),
    *("a sewing machine", "a move abroad", "a laboratory after hours", "a broken promise"),
    *("a museum visit", "a shared kitchen", "a field of sheep", "a marathon"),
    *("a language course", "a fence between two gardens", "a theatre audition", "a winter without heating"),
    *("a new baby in the house", "a fishing trip", "a program that will not run", "a grandmother's recipe"),
    *("a bag of old clothes", "a lighthouse", "a traffic jam", "a retirement party"),
    *("a bookshop", "a hospital waiting room", "a storm warning", "the end of a holiday"),
)
"""A hundred; a run takes the first so many."""

CHARACTERS = (
    *("a young woman", "an old man", "a child of ten", "a father of three", "a student", "a nurse"),
    *("a shopkeeper", "a bus driver", "a teacher close to retirement", "a newcomer to the country", "a carpenter"),
    *("a writer who narrates in the first person",),
)
"""The n-th story on a topic is about the n-th of these, and round again: one prompt asked twelve times says little."""
