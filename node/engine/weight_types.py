"""The weight types in GGUF files: their names, and the bytes per block of weights.

Source: `ggml_type` and the block structures of the ggml project, as of version 0.19 of its `gguf`
package, which a test compares. Importing the package would add a quarter to an engine's start time.
"""

from typing import Final, NamedTuple


class WeightType(NamedTuple):
    """Weights are stored in blocks."""

    name: str
    block_weights: int
    block_bytes: int


WEIGHT_TYPES: Final = {
    0: WeightType("F32", 1, 4),
    1: WeightType("F16", 1, 2),
    2: WeightType("Q4_0", 32, 18),
    3: WeightType("Q4_1", 32, 20),
    6: WeightType("Q5_0", 32, 22),
    7: WeightType("Q5_1", 32, 24),
    8: WeightType("Q8_0", 32, 34),
    9: WeightType("Q8_1", 32, 40),
    10: WeightType("Q2_K", 256, 84),
    11: WeightType("Q3_K", 256, 110),
    12: WeightType("Q4_K", 256, 144),
    13: WeightType("Q5_K", 256, 176),
    14: WeightType("Q6_K", 256, 210),
    15: WeightType("Q8_K", 256, 292),
    16: WeightType("IQ2_XXS", 256, 66),
    17: WeightType("IQ2_XS", 256, 74),
    18: WeightType("IQ3_XXS", 256, 98),
    19: WeightType("IQ1_S", 256, 50),
    20: WeightType("IQ4_NL", 32, 18),
    21: WeightType("IQ3_S", 256, 110),
    22: WeightType("IQ2_S", 256, 82),
    23: WeightType("IQ4_XS", 256, 136),
    24: WeightType("I8", 1, 1),
    25: WeightType("I16", 1, 2),
    26: WeightType("I32", 1, 4),
    27: WeightType("I64", 1, 8),
    28: WeightType("F64", 1, 8),
    29: WeightType("IQ1_M", 256, 56),
    30: WeightType("BF16", 1, 2),
    34: WeightType("TQ1_0", 256, 54),
    35: WeightType("TQ2_0", 256, 66),
    39: WeightType("MXFP4", 32, 17),
    40: WeightType("NVFP4", 64, 36),
    41: WeightType("Q1_0", 128, 18),
}
