"""The plots: lists of beats, each beat a choice of sentences with slots for the hero.

The slots are ``name``, ``kind``, ``he``, ``him`` and ``his``; a capital first letter asks for a
capital first letter. Every plot has its own helper, who has no name, so that a story has only one.
"""

from typing import NamedTuple

Beat = tuple[str, ...]


class Plot(NamedTuple):
    """What happens between opening and ending, and the lesson it taught."""

    lesson: str
    beats: tuple[Beat, ...]


OPENINGS: Beat = (
    "Once upon a time, there was {a_hero} named {name}.",
    "Long ago, there lived {a_hero} named {name}.",
    "There once was {a_hero} named {name}.",
)

HOMES: Beat = (
    "{Name} the {kind} lived {place}.",
    "{Name} lived {place}.",
)

ENDINGS: Beat = (
    "That night {name} the {kind} fell asleep with a smile.",
    "{Name} the {kind} never forgot that day.",
    "And {name} the {kind} lived happily ever after.",
)

KITE = Plot(
    "a lost thing is easier to find with a friend",
    (
        (
            "One windy day, {name} lost {his} red kite.",
            "One morning, the wind carried {his} red kite away.",
        ),
        (
            "{Name} the {kind} looked for the kite behind every bush, but it was not there.",
            "{Name} ran after the kite until {he} could run no more.",
            "All day long {name} the {kind} looked up at the sky, but there was no kite.",
        ),
        (
            'Then an old heron came by. "Why are you so sad, {name}?" asked the heron.',
            'An old heron stood in the reeds. "Can I help you, {name}?" asked the heron.',
        ),
        (
            '"My red kite is gone," said {name} the {kind}.',
            '"The wind took my red kite," said {name}, and {he} began to cry.',
        ),
        (
            "The heron flew high above the trees and saw the kite on the tallest one.",
            "Together they looked again, and the heron saw the kite in the top of a tree.",
        ),
        (
            "Soon {name} had {his} kite again, and {he} danced in a circle.",
            '"Thank you, dear heron!" cried {name} the {kind}, and the kite flew once more.',
        ),
    ),
)

LIGHT = Plot(
    "being brave means going on even when you are afraid",
    (
        (
            "{Name} the {kind} had a secret: {he} was afraid of the dark.",
            "Every night {name} was afraid of the dark.",
        ),
        (
            "One night something knocked at the window. Tap, tap, tap.",
            "One stormy night {name} heard a strange sound at the door. Tap, tap, tap.",
        ),
        (
            "{Name} the {kind} took a deep breath, counted to three and went to see.",
            "{His} heart beat fast, but {name} took a candle and opened the door.",
        ),
        (
            "It was only a firefly with wet wings, cold and tired from the rain.",
            "There sat a tiny firefly who had lost the way in the rain.",
        ),
        (
            '"Come in and get warm," said {name} the {kind}.',
            '"You poor thing," said {name}, and {he} gave the firefly a warm place to sleep.',
        ),
        (
            '"You are very brave," said the firefly, and it filled the dark room with light.',
            "To say thank you, the firefly lit a small green light, and the dark was gone.",
        ),
        (
            "From then on, {name} was not afraid of the dark any more.",
            "Since that night {name} and the firefly have been the best of friends.",
        ),
    ),
)

SEED = Plot(
    "good things take time",
    (
        (
            "One spring day, {name} found a golden seed and planted it.",
            "In spring, {name} planted a golden seed by the door.",
        ),
        (
            "{Name} the {kind} watered the seed every morning, but nothing grew.",
            "{Name} sat beside the seed day after day, but nothing happened.",
        ),
        (
            '"Maybe it is only a stone," said {name} the {kind}.',
            '"It will never grow," said {name} sadly.',
        ),
        (
            'An old gardener heard {him}. "A seed is only sleeping," said the gardener.',
            'Then an old gardener came by. "You cannot hurry a seed," said the gardener.',
        ),
        (
            '"Sing to it, {name}, and give it time."',
            '"Tell it a story every evening, {name}, and wait."',
        ),
        (
            "So {name} the {kind} waited through the sun and through the rain.",
            "And that is what {name} the {kind} did, all spring long.",
        ),
        (
            "One bright morning a flower opened that was taller than a house.",
            "Then a green leaf came up, and by summer there was a tree full of golden apples.",
        ),
    ),
)

SONG = Plot(
    "every voice has its own beauty",
    (
        (
            "{Name} loved to sing, but {his} voice was very small.",
            "More than anything, {name} the {kind} wanted to sing in the summer choir.",
        ),
        (
            '"Nobody can hear you, {name}!" said the others, and they laughed.',
            "When {name} sang, the others only laughed at {him}.",
        ),
        (
            "So {name} the {kind} went to the lake and sang all alone.",
            "{Name} walked away and sang a sad song by the lake.",
        ),
        (
            "But a white swan on the lake had heard every note.",
            "There a white swan listened with closed eyes.",
        ),
        (
            '"Sing at night, {name}, when the world is quiet," said the swan.',
            '"A small voice needs a quiet night," said the swan. "Come back when the moon is up."',
        ),
        (
            "That night {name} the {kind} sang under the moon, and even the wind listened.",
            "When the moon came up, {name} sang, and one window after another opened.",
        ),
        (
            "Nobody laughed now. They all wanted to hear {name} sing again.",
            "Since then nobody can fall asleep without the song of {name} the {kind}.",
        ),
    ),
)

CAKE = Plot(
    "a cake tastes better when you share it",
    (
        (
            "One day {name} baked a honey cake and hid it at once.",
            "{Name} baked the best honey cake in the land, but {he} always ate it alone.",
        ),
        (
            '"This cake is all mine," said {name} the {kind}, and {he} closed the door.',
            '"If I share my cake, there will be less for me," said {name} the {kind}.',
        ),
        (
            "But the table was quiet, and the cake did not taste good at all.",
            "But it is dull to eat a cake alone.",
        ),
        (
            'Then a hungry raven knocked at the door. "It smells so good here," said the raven.',
            'A hungry raven looked in at the window. "What a fine cake!" said the raven.',
        ),
        (
            "{Name} the {kind} thought for a long time. Then {he} cut the cake in two.",
            '"Come in, dear raven," said {name} at last, and {he} cut the cake in two.',
        ),
        (
            "They ate and talked and laughed, and no cake had ever tasted so good.",
            "The raven told funny stories, and soon the whole house was full of laughter.",
        ),
    ),
)

FOG = Plot(
    "a small light can show a long way",
    (
        (
            "One morning, {name} went to see where the road ended.",
            "One day {name} took a small boat and sailed far away.",
        ),
        (
            "But a thick white fog came down, and {name} the {kind} was lost.",
            "Then there was fog all around, and {name} the {kind} could not see the way home.",
        ),
        (
            '"Hello?" called {name}, but nobody answered.',
            "{Name} turned left and {he} turned right, but there was only fog.",
        ),
        (
            "In the lighthouse the old keeper heard {him} and lit the great lamp.",
            "But the old keeper of the lighthouse had heard the voice of {name} the {kind}.",
        ),
        (
            '"Come to the light, {name}!" called the keeper through the fog.',
            '"Follow the lamp, {name}!" called the keeper.',
        ),
        (
            "Step by step {name} the {kind} followed the light until {he} was home.",
            "{Name} followed the light through the fog, and there was {his} own front door.",
        ),
        (
            'The keeper gave {him} hot soup. "It is good to have you back, {name}."',
            '"Thank you, dear keeper," said {name} the {kind}, and they drank hot tea together.',
        ),
    ),
)

BRIDGE = Plot(
    "together we can do what nobody can do alone",
    (
        (
            "One night a great storm broke the only bridge over the river.",
            "One autumn day, the river rose and carried the old bridge away.",
        ),
        (
            '"I will build a new bridge," said {name} the {kind}.',
            '"We need a new bridge," said {name}, and {he} went to work.',
        ),
        (
            "{Name} the {kind} pulled and pushed, but the wood was too heavy for one alone.",
            "{Name} worked until {he} could work no more, and then {he} sat down and cried.",
        ),
        (
            'The old miller saw {him}. "Why do you not ask for help, {name}?" said the miller.',
            'Then the old miller came by. "Nobody builds a bridge alone," said the miller.',
        ),
        (
            "So {name} the {kind} and the miller called everybody together.",
            "The miller rang a bell, and everybody came to help {name} the {kind}.",
        ),
        (
            "The big ones pulled, the small ones pushed, and by evening the bridge was done.",
            "Everybody carried one piece of wood, and soon there was a new bridge.",
        ),
        (
            "And {name} was the first to walk across it.",
            '"Thank you, my friends!" cried {name} the {kind}.',
        ),
    ),
)

CUP = Plot(
    "the truth makes the heart light",
    (
        (
            "One day {name} broke the blue cup of the old baker.",
            "While {name} was playing, the blue cup of the old baker fell down and broke.",
        ),
        (
            "{Name} the {kind} hid behind a bush and did not dare to tell.",
            "All night long {name} the {kind} could not sleep because of the cup.",
        ),
        (
            '"Shall I say that the wind broke the cup?" thought {name}. But that was not true.',
            '"Nobody saw me," thought {name}, but {his} heart was as heavy as a stone.',
        ),
        (
            "In the morning {name} the {kind} went to the baker.",
            "At last {name} knocked at the door of the baker.",
        ),
        (
            '"I broke your blue cup," said {name} the {kind}. "I am sorry."',
            '"It was my fault," said {name}, and {he} told the baker about the cup.',
        ),
        (
            'The baker smiled. "A cup is only a cup, {name}, but a true friend is a treasure."',
            'The baker was quiet for a while. "Thank you for telling me the truth, {name}."',
        ),
        (
            "Then {name} and the baker made a new cup, and it was even more beautiful.",
            "They drank hot milk together, and {name} the {kind} felt as light as a feather.",
        ),
    ),
)

MOON = Plot(
    "you should never laugh at a dream",
    (
        (
            "{Name} the {kind} had a dream: {he} wanted to touch the moon.",
            "Every evening {name} looked up and wished to touch the moon.",
        ),
        (
            '"Nobody can touch the moon, {name}," said the others.',
            "The others laughed, but {name} the {kind} did not give up.",
        ),
        (
            "{Name} climbed the highest hill, but the moon was still too far away.",
            "{Name} the {kind} built a ladder to the moon, but it was much too short.",
        ),
        (
            'A silver moth had seen {him}. "Come with me, {name}," said the moth.',
            'Then a silver moth came by. "I know where the moon sleeps," said the moth.',
        ),
        (
            "The moth led {name} the {kind} to a quiet pond.",
            "{Name} followed the moth through the night until they came to a pond.",
        ),
        (
            "There in the water lay the moon, round and bright.",
            "And there was the moon, swimming in the dark water.",
        ),
        (
            "Very gently, {name} the {kind} touched it, and the light danced all around {him}.",
            "{Name} reached out and touched the moon, and the whole pond began to shine.",
        ),
    ),
)

BIRTHDAY = Plot(
    "those who love us do not forget us",
    (
        (
            "One morning {name} woke up early, because it was {his} birthday.",
            "It was the birthday of {name} the {kind}, but nobody said a word about it.",
        ),
        (
            "{Name} waited at the window all morning, but nobody came.",
            "No letter came, and nobody knocked at the door of {name} the {kind}.",
        ),
        (
            'On the road {he} met the postman. "I have nothing for you, {name}," said the postman.',
            'Only the postman walked by. "I am very busy today, {name}," said the postman.',
        ),
        (
            "{Name} the {kind} walked home slowly and felt all alone.",
            '"They have forgotten my birthday," said {name} the {kind}.',
        ),
        (
            'But behind the door a hundred candles were shining. "Surprise!" cried the postman.',
            'But at home there was music, and the postman cried: "Happy birthday, {name}!"',
        ),
        (
            "All the friends of {name} the {kind} were there, and they danced until late.",
            "There was a present for {name}, and it was the best birthday of all.",
        ),
    ),
)

PLOTS = (KITE, LIGHT, SEED, SONG, CAKE, FOG, BRIDGE, CUP, MOON, BIRTHDAY)
