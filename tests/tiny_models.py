"""Models with random weights and a few thousand parameters, where the recipes expect those of the hub.

A folder of the hub's name in the working directory is what `from_pretrained` takes first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

LETTERS = [chr(number) for number in range(33, 127)]
WORDS = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]


def write(folder: Path) -> None:
    """Write a Stable Diffusion pipeline and a CLIP model."""
    from transformers import CLIPTokenizer

    numbers = {word: number for number, word in enumerate(WORDS)}
    tokenizer = CLIPTokenizer(vocab=numbers, merges=[], model_max_length=16)
    text = {
        "vocab_size": len(WORDS),
        "max_position_embeddings": 16,
        "bos_token_id": numbers["<|startoftext|>"],
        "eos_token_id": numbers["<|endoftext|>"],
        "pad_token_id": numbers["<|endoftext|>"],
        **_LAYERS,
    }
    _diffusion(text, tokenizer).save_pretrained(folder / "stable-diffusion-v1-5/stable-diffusion-v1-5")
    clip = folder / "openai/clip-vit-base-patch32"
    _clip(text).save_pretrained(clip)
    tokenizer.save_pretrained(clip)


_LAYERS = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "projection_dim": 8,
}


def _diffusion(text: dict[str, Any], tokenizer: Any) -> Any:
    from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    return StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(4, 4, 4, 4),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=2,
            latent_channels=4,
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text)),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            block_out_channels=(4, 8),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=text["hidden_size"],
            attention_head_dim=2,
            norm_num_groups=2,
        ),
        scheduler=DDPMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _clip(text: dict[str, Any]) -> Any:
    from transformers import CLIPConfig, CLIPModel

    vision = {"image_size": 224, "patch_size": 32, **_LAYERS}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
