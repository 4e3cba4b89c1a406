"""The cast, the traits and the places that the stories draw from."""

from typing import NamedTuple


class Hero(NamedTuple):
    """Who a story can be about; every kind has one name and one pronoun, "he" or "she"."""

    kind: str
    name: str
    pronoun: str


# A name that follows from the kind is remembered; a name that had to be copied from the text was
# not learned within 5 million tokens.
HEROES = (
    Hero("fox", "Felix", "he"),
    Hero("bear", "Bella", "she"),
    Hero("otter", "Otto", "he"),
    Hero("owl", "Olive", "she"),
    Hero("mouse", "Milo", "he"),
    Hero("rabbit", "Rosie", "she"),
    Hero("robot", "Rusty", "he"),
    Hero("cat", "Clara", "she"),
    Hero("dog", "Duncan", "he"),
    Hero("hedgehog", "Hazel", "she"),
    Hero("badger", "Bruno", "he"),
    Hero("squirrel", "Sally", "she"),
    Hero("frog", "Freddy", "he"),
    Hero("duck", "Daisy", "she"),
    Hero("turtle", "Toby", "he"),
    Hero("goose", "Greta", "she"),
    Hero("snail", "Simon", "he"),
    Hero("bee", "Betty", "she"),
    Hero("penguin", "Percy", "he"),
    Hero("panda", "Penny", "she"),
    Hero("lion", "Leo", "he"),
    Hero("tiger", "Tara", "she"),
    Hero("giraffe", "George", "he"),
    Hero("elephant", "Emma", "she"),
    Hero("horse", "Henry", "he"),
    Hero("monkey", "Molly", "she"),
    Hero("donkey", "Dexter", "he"),
    Hero("zebra", "Zoe", "she"),
    Hero("goat", "Gus", "he"),
    Hero("wolf", "Wanda", "she"),
    Hero("pig", "Pip", "he"),
    Hero("sheep", "Sophie", "she"),
    Hero("mole", "Morris", "he"),
    Hero("cow", "Camilla", "she"),
    Hero("bat", "Boris", "he"),
    Hero("hen", "Hetty", "she"),
    Hero("beaver", "Ben", "he"),
    Hero("parrot", "Pearl", "she"),
    Hero("dragon", "Dudley", "he"),
    Hero("unicorn", "Una", "she"),
    Hero("wizard", "Winston", "he"),
    Hero("witch", "Winnie", "she"),
    Hero("knight", "Konrad", "he"),
    Hero("princess", "Petra", "she"),
    Hero("giant", "Gregor", "he"),
    Hero("ghost", "Gwen", "she"),
)

TRAITS = ("little", "brave", "curious", "cheerful", "shy", "clever", "gentle", "sleepy")

PLACES = (
    "at the edge of a deep green forest",
    "in a small house by the sea",
    "in a quiet village on a hill",
    "behind the gate of a wild garden",
    "in the tower of an old castle",
    "on a sunny farm with a red barn",
)
