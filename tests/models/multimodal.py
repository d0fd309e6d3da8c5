"""Build the configuration of a tiny multimodal Gemma 3, whose text model has settings of its own."""

from transformers import Gemma3Config


def gemma3_config(**of_text):
    """Return a configuration with two text layers.

    Args:
        **of_text: Further settings of the text model.
    """
    text = {
        "vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 96, **of_text,
    }  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Gemma3Config(
        text_config=text,
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=319,
        boi_token_index=318,
        eoi_token_index=317,
    )
