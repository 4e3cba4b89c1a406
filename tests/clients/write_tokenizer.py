"""Write a tokenizer for Hugging Face's `transformers`: `python write_tokenizer.py FILE DIRECTORY`.

FILE is JSON with the `tokens` and `merges` of byte-pair encoding. Runs where `transformers` is
installed, beside lm-eval.
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

file, directory = sys.argv[1:]
vocabulary = json.loads(Path(file).read_text(encoding="utf-8"))
identities = {token: identity for identity, token in enumerate(vocabulary["tokens"])}
merges = [tuple(merge.split(" ")) for merge in vocabulary["merges"]]
tokenizer = Tokenizer(models.BPE(identities, merges))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
end = vocabulary["end"]
PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end).save_pretrained(
    directory
)
