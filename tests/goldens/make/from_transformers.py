"""Goldens of transformers: SegFormer, DINOv2, Mask2Former's decoder layer; names as in checkpoints on the Hub."""

import tempfile
from pathlib import Path

from common import Case, main, of
from safetensors.numpy import save_file
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Mask2FormerConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerModel,
)
from transformers.models.mask2former.modeling_mask2former import Mask2FormerMaskedAttentionDecoderLayer


def checkpoint(model, config):
    """A `build` that reads the weights as `from_pretrained` reads a checkpoint, whose names may be older ones."""

    def build(state):
        with tempfile.TemporaryDirectory() as folder:
            save_file(state, Path(folder) / "model.safetensors", {"format": "pt"})
            config.save_pretrained(folder)
            return model.from_pretrained(folder, attn_implementation="eager")

    return build


def mit(module, inputs):
    states = module(inputs["x"], output_hidden_states=True).hidden_states
    return {f"stage{i}": x for i, x in enumerate(states, 1)}


def attention(state):
    """The attention of one block of a model of one stage, filled through a checkpoint of that model."""
    config = SegformerConfig(
        num_encoder_blocks=1, depths=[1], hidden_sizes=[64], num_attention_heads=[2], sr_ratios=[4], patch_sizes=[3],
        strides=[1], mlp_ratios=[4], attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = SegformerModel(config)
    with tempfile.TemporaryDirectory() as folder:
        prefix = "encoder.block.0.0.attention."
        save_file({prefix + name: x for name, x in state.items()}, Path(folder) / "model.safetensors", {"format": "pt"})
        config.save_pretrained(folder)
        model = SegformerModel.from_pretrained(folder, attn_implementation="eager")
    (found,) = [m for m in model.modules() if type(m).__name__ == "SegformerAttention"]
    return found


def attend(module, inputs):
    x = inputs["x"]
    y, weights = module(x.flatten(2).transpose(1, 2), x.shape[2], x.shape[3], output_attentions=True)[:2]
    return {"y": y.transpose(1, 2).reshape(x.shape), "weights": weights}


def dinov2(module, inputs):
    x = inputs["x"]
    result = module(x, output_hidden_states=True)
    states, size = result.hidden_states, (x.shape[2] // 14, x.shape[3] // 14)
    blocks = {f"block{i}": states[i + 1][:, 1:].transpose(1, 2).unflatten(2, size) for i in (1, 3)}
    return {"embeddings": states[0], **blocks, "tokens": result.last_hidden_state}


def decoder_layer(module, inputs):
    first = {name: x.transpose(0, 1) for name, x in inputs.items() if name != "mask"}
    mask = inputs["mask"].bool().repeat_interleave(4, 0)
    y = module(
        first["x"],
        level_index=0,
        position_embeddings=[first["pos"]],
        query_position_embeddings=first["query_pos"],
        encoder_hidden_states=[first["memory"]],
        encoder_attention_mask=mask,
    )
    return {"y": (y[0] if isinstance(y, tuple) else y).transpose(0, 1)}


DINOV2 = checkpoint(
    Dinov2Model,
    Dinov2Config(hidden_size=96, num_hidden_layers=4, num_attention_heads=3, mlp_ratio=4, patch_size=14, image_size=98),
)
LAYER = Mask2FormerConfig(hidden_dim=64, num_attention_heads=4, dim_feedforward=128, pre_norm=False, dropout=0.0)
CASES = {
    "backbone_mit_b0": Case(checkpoint(SegformerModel, SegformerConfig()), mit),
    "model_segformer_b0": Case(
        checkpoint(SegformerForSemanticSegmentation, SegformerConfig(num_labels=19)),
        lambda module, inputs: {"logits": module(inputs["x"]).logits},
    ),
    "attn_segformer_sr4_13x17": Case(attention, attend),
    "backbone_dinov2_tiny": Case(DINOV2, dinov2),
    "backbone_dinov2_tiny_70x112": Case(DINOV2, dinov2),
    "attn_mask2former_layer": Case(of(lambda: Mask2FormerMaskedAttentionDecoderLayer(LAYER)), decoder_layer),
}

if __name__ == "__main__":
    main(CASES, "transformers")
