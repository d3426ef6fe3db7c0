"""How the data came about and what it should not be used for, in Croissant's vocabulary of responsible AI (RAI 1.0).

What upstream tells stands here; the known limits are those of the card, which depend on the copy.

Vocabulary: https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html
"""

from __future__ import annotations

from typing import Any

from dataset_card import text
from dataset_card.provenance import PROVENANCE
from dataset_card.statistics import Converted

CONFORMS_TO = "http://mlcommons.org/croissant/RAI/1.0"

COLLECTION = (
    "No image was taken for this dataset. The authors of MMM-RS drew on nine published remote sensing datasets, "
    "resized or cropped their images to 512 x 512 pixels, and wrote a text prompt for each."
)
CAPTIONS = (
    "Each prompt joins phrases from the source's own labels (ground sample distance, category, satellite) with a "
    "caption that the vision-language model BLIP generated. The authors corrected prompts by hand; which ones is not "
    "published."
)
WEATHER = (
    "The images of the subset weather are synthetic: fog by an atmospheric scattering model, night by TPSeNCE, snow by "
    "CycleGAN, each from an image of clear weather."
)
RESIZED = (
    "Images were resized or cropped, so one pixel of an image can cover more or less ground than the ground sample "
    "distance says: that is the source's."
)
BIASES = (
    "Places, seasons and sensors are those of the sources, and unevenly spread: fMoW and SEN1-2 hold most samples, and "
    "several sources cover China alone. The captions carry the biases of the model that generated them."
)
USES = (
    "Training and evaluation of text-to-image models for remote sensing.",
    "Image-to-text, retrieval, and translation between optical, near infrared and radar images.",
)
PRIVACY = (
    "None is known. Objects smaller than the ground sample distance cannot be recognised; at 0.15 to 0.5 m per pixel "
    "buildings and vehicles can be seen, but neither faces nor number plates."
)


def facts(converted: Converted) -> dict[str, Any]:
    """Properties of the dataset's node."""
    preparation = [RESIZED, *([WEATHER] if "weather" in converted.subsets else [])]
    sources = [f"{name}: {PROVENANCE[name].source}, {PROVENANCE[name].homepage}" for name in converted.subsets]
    return {
        "rai:dataCollection": COLLECTION,
        "rai:dataCollectionType": ["Secondary data analysis"],
        "rai:dataCollectionRawData": "; ".join(sources),
        "rai:dataPreprocessingProtocol": preparation,
        "rai:dataAnnotationProtocol": [CAPTIONS],
        "rai:machineAnnotationTools": ["BLIP (captions)"],
        "rai:dataLimitations": [limit.replace("`", "") for limit in text.limits(converted)],
        "rai:dataBiases": [BIASES],
        "rai:dataUseCases": list(USES),
        "rai:personalSensitiveInformation": [PRIVACY],
    }
