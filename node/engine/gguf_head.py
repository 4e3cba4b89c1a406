"""The head of a GGUF file as values: its fields and the list of its tensors."""

import array
from dataclasses import dataclass

Scalar = bool | int | float | bytes
Value = Scalar | list[bytes] | array.array  # type: ignore[type-arg]  # of any kind of number


class DamagedFileError(Exception):
    """The bytes are not a GGUF file, or not a complete one; the text says what is wrong."""


@dataclass(frozen=True)
class Tensor:
    """Where one tensor is and how its weights are stored."""

    name: str
    kind: str
    """The weight type's name; `type N` for an unknown type."""
    size_bytes: int
    """For an unknown type, the room up to the next tensor."""
    offset: int
    dimensions: tuple[int, ...]


@dataclass(frozen=True)
class Head:
    """The part of the file before the weights."""

    fields: dict[str, Value]
    tensors: tuple[Tensor, ...]
    data_offset: int

    def number(self, key: str, default: int = 0, most: int = 2**31 - 1) -> int:
        """Return a whole number from a field.

        Raises:
            DamagedFileError: It is not a whole number from 0 to `most`.
        """
        value = self.fields.get(key, default)
        if not isinstance(value, int) or not 0 <= value <= most:
            raise DamagedFileError(f"{key} is not a whole number from 0 to {most}")
        return value

    def per_layer(self, key: str, layers: int, default: int | None, most: int) -> list[int]:
        """Return a whole number for each layer, from one for all layers or from a list.

        Args:
            key: The field.
            layers: How many layers there are.
            default: The number if the field is missing; None for an empty list.
            most: The largest possible number.

        Raises:
            DamagedFileError: It is not that many whole numbers from 0 to `most`.
        """
        value = self.fields.get(key, default)
        if value is None:
            return []
        if not isinstance(value, array.array):
            return [self.number(key, default or 0, most)] * layers
        listed = self.numbers(key)
        if len(listed) < layers or not all(0 <= number <= most for number in listed):
            raise DamagedFileError(f"{key} is not {layers} whole numbers from 0 to {most}")
        return listed[:layers]

    def text(self, key: str, default: str = "") -> str:
        """Return a text from a field.

        Raises:
            DamagedFileError: It is not UTF-8 text.
        """
        value = self.fields.get(key, default.encode())
        if not isinstance(value, bytes):
            raise DamagedFileError(f"{key} is not text")
        return decode(value, key)

    def texts(self, key: str) -> list[bytes]:
        """Return a list of texts as bytes; empty if the field is missing or was skipped.

        Raises:
            DamagedFileError: It is a list of another type.
        """
        value = self.fields.get(key, [])
        if not isinstance(value, list):
            raise DamagedFileError(f"{key} is not a list of texts")
        return value

    def numbers(self, key: str) -> list[int]:
        """Return a list of whole numbers; empty if the field is missing.

        Raises:
            DamagedFileError: It is a list of another type.
        """
        value = self.fields.get(key, array.array("i"))
        if not isinstance(value, array.array) or value.typecode in "fd":
            raise DamagedFileError(f"{key} is not a list of whole numbers")
        return value.tolist()


def decode(text: bytes, what: str) -> str:
    """Decode a text of the file.

    Raises:
        DamagedFileError: It is not UTF-8.
    """
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{what} is not text in UTF-8") from error
