"""Writes the trained model as a GGUF file, its matrices as q8_0 and its norms as f32."""

from pathlib import Path

import gguf
import numpy as np
from torch import Tensor

from deployments.demo_model.chat import CHAT_TEMPLATE
from deployments.demo_model.model import Llama, Shape
from deployments.demo_model.tokenizer import BEGIN, END, UNKNOWN, Tokenizer

NAME = "Distributed LLM demo storyteller"
DESCRIPTION = (
    "A tiny storyteller for trying out and testing Distributed LLM. It was trained from nothing"
    " on generated stories and knows nothing else."
)


def write_gguf(path: Path, model: Llama, tokenizer: Tokenizer) -> None:
    """Write weights, vocabulary and chat template; the format is GGUF v3."""
    writer = gguf.GGUFWriter(path, "llama")
    _add_general(writer)
    _add_shape(writer, model.shape)
    _add_tokenizer(writer, tokenizer)
    for name, weights in model.state_dict().items():
        _add_tensor(writer, gguf_name(name), weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """The GGUF name of a parameter of ``Llama``."""
    renamed = {"embedding.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
    return renamed.get(name, name.replace("blocks.", "blk."))


def _add_general(writer: gguf.GGUFWriter) -> None:
    writer.add_name(NAME)
    writer.add_description(DESCRIPTION)
    writer.add_license("MIT")
    writer.add_languages(["en"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_shape(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.hidden_width)
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rotation_base)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token.text for token in tokenizer.tokens])
    writer.add_token_scores([token.score for token in tokenizer.tokens])
    writer.add_token_types([token.type for token in tokenizer.tokens])
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_add_bos_token(value=True)
    writer.add_add_eos_token(value=False)
    writer.add_add_space_prefix(value=True)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_tensor(writer: gguf.GGUFWriter, name: str, weights: Tensor) -> None:
    values = weights.detach().float().numpy()
    if values.ndim == 1:
        writer.add_tensor(name, values)
        return
    kind = gguf.GGMLQuantizationType.Q8_0
    blocks = gguf.quantize(np.ascontiguousarray(values), kind)
    writer.add_tensor(name, blocks, raw_dtype=kind)
