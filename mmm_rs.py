"""MMM-RS: what the dataset is.

MMM-RS (multi-modal, multi-GSD, multi-scene remote sensing; arXiv 2410.22362, NeurIPS 2024 Datasets and Benchmarks)
pairs remote sensing images with text prompts. This module is the one place that defines its subsets and its features.

It imports nothing of the project when it is imported, so that this one file can be handed on alone, next to the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import datasets
import pyarrow as pa

FORMAT_VERSION = "1.0"  # of what is written: shards, index, manifest. A reader refuses another major version

MODALITIES = ("rgb", "nir", "sar")  # optical, near infrared, radar; everywhere in this order
GSD_LEVELS = ("ultra_high", "high", "ordinary", "low", "ultra_low")  # finest first; labels, in this order
WEATHERS = ("fog", "night", "snow")

PROMPT_COLUMNS = {"rgb": "prompt", "nir": "nir_prompt", "sar": "sar_prompt"}


@dataclass(frozen=True)
class Members:
    """Suffixes of a modality's members of a sample in a shard, without the leading dot."""

    image: str
    prompt: str


MEMBERS = {
    "rgb": Members("jpg", "txt"),
    "nir": Members("nir.jpg", "nir.txt"),
    "sar": Members("sar.jpg", "sar.txt"),
}
METADATA_MEMBER = "json"


@dataclass(frozen=True)
class Subset:
    """One of the ten parts of the release. What is not known for certain says so."""

    name: str
    modalities: tuple[str, ...]  # in the order of MODALITIES
    sensor: str
    gsd: str  # metres a pixel of the source images; resampled images of a sample can be coarser
    gsd_range: tuple[float, float] | None  # the same as numbers: finest, coarsest; None where not published
    images: int  # of each modality, by upstream's README of August 2024: a check to report, never a condition
    scenes: str
    source: str  # name of the dataset that upstream took the images from
    homepage: str
    source_licence: str
    citation: str  # BibTeX of the source; empty where MMM-RS itself is the source


CITATION = """\
@inproceedings{luo2024mmmrs,
  title     = {{MMM-RS}: A Multi-modal, Multi-{GSD}, Multi-scene Remote Sensing Dataset and Benchmark for
               Text-to-Image Generation},
  author    = {Luo, Jialin and Wang, Yuanzhi and Gu, Ziqi and Qiu, Yide and Yao, Shuaizhen and Wang, Fuyun and
               Xu, Chunyan and Zhang, Wenhua and Wang, Dan and Cui, Zhen},
  booktitle = {Advances in Neural Information Processing Systems, Datasets and Benchmarks Track},
  year      = {2024},
  note      = {arXiv:2410.22362}
}
"""
HOMEPAGE = "https://github.com/ljl5261/MMM-RS"
PAPER = "https://arxiv.org/abs/2410.22362"
LICENCE = "CC BY-NC-SA (upstream's badge names no version); the sources' own terms hold as well"

_SEE_SOURCE = "see source"  # its terms could not be established for certain

_SUBSETS = (
    Subset(
        name="weather",
        modalities=("rgb",),
        sensor="mixed",
        gsd="mixed",
        gsd_range=None,
        images=30_000,
        scenes="fog, night and snow, 10,000 each; synthesised by upstream from clear images, or real",
        source="MMM-RS",
        homepage=HOMEPAGE,
        source_licence="as MMM-RS; " + _SEE_SOURCE,
        citation="",
    ),
    Subset(
        name="WHU-OPT-SAR",
        modalities=("rgb", "nir", "sar"),
        sensor="GF-1 (optical, near infrared), GF-3 (SAR)",
        gsd="5",
        gsd_range=(5.0, 5.0),
        images=7_000,
        scenes="land use in Hubei, China: farmland, city, village, water, forest, road; aligned tiles",
        source="WHU-OPT-SAR",
        homepage="https://github.com/AmberHen/WHU-OPT-SAR-dataset",
        source_licence=_SEE_SOURCE,
        citation="""\
@article{li2022mcanet,
  title   = {{MCANet}: A joint semantic segmentation framework of optical and {SAR} images for land use classification},
  author  = {Li, Xue and Zhang, Guo and Cui, Hao and Hou, Shasha and Wang, Shunyao and Li, Xin and Chen, Yujia and
             Li, Zhijiang and Zhang, Li},
  journal = {International Journal of Applied Earth Observation and Geoinformation},
  volume  = {106},
  pages   = {102638},
  year    = {2022}
}
""",
    ),
    Subset(
        name="SEN1-2",
        modalities=("rgb", "sar"),
        sensor="Sentinel-2 (optical), Sentinel-1 (SAR)",
        gsd="10",
        gsd_range=(10.0, 10.0),
        images=280_000,
        scenes="land surfaces all over the world, in all four seasons; aligned patches",
        source="SEN1-2",
        homepage="https://mediatum.ub.tum.de/1436631",
        source_licence="CC BY",
        citation="""\
@article{schmitt2018sen12,
  title   = {The {SEN1-2} Dataset for Deep Learning in {SAR}-Optical Data Fusion},
  author  = {Schmitt, Michael and Hughes, Lloyd Haydn and Zhu, Xiao Xiang},
  journal = {ISPRS Annals of the Photogrammetry, Remote Sensing and Spatial Information Sciences},
  volume  = {IV-1},
  pages   = {141--146},
  year    = {2018}
}
""",
    ),
    Subset(
        name="Inria",
        modalities=("rgb",),
        sensor="aerial cameras",
        gsd="0.3",
        gsd_range=(0.3, 0.3),
        images=2_872,
        scenes="towns and their surroundings in Europe and North America; each at 0.3, 0.6, 1.2 and 2.4 m",
        source="Inria Aerial Image Labeling",
        homepage="https://project.inria.fr/aerialimagelabeling/",
        source_licence=_SEE_SOURCE,
        citation="""\
@inproceedings{maggiori2017inria,
  title     = {Can Semantic Labeling Methods Generalize to Any City? The {Inria} Aerial Image Labeling Benchmark},
  author    = {Maggiori, Emmanuel and Tarabalka, Yuliya and Charpiat, Guillaume and Alliez, Pierre},
  booktitle = {IEEE International Geoscience and Remote Sensing Symposium (IGARSS)},
  year      = {2017}
}
""",
    ),
    Subset(
        name="fMoW",
        modalities=("rgb",),
        sensor="WorldView-2 and -3, GeoEye-1, QuickBird-2",
        gsd="0.3 to 0.5 and coarser",
        gsd_range=None,
        images=930_000,
        scenes="62 classes of buildings and land use all over the world",
        source="Functional Map of the World (fMoW)",
        homepage="https://github.com/fMoW/dataset",
        source_licence="Functional Map of the World Challenge Public License",
        citation="""\
@inproceedings{christie2018fmow,
  title     = {Functional Map of the World},
  author    = {Christie, Gordon and Fendley, Neil and Wilson, James and Mukherjee, Ryan},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2018},
  doi       = {10.1109/CVPR.2018.00646}
}
""",
    ),
    Subset(
        name="TGRS-HRRSD",
        modalities=("rgb",),
        sensor="mixed, by way of Google Earth and Baidu Map",
        gsd="0.15 to 1.2",
        gsd_range=(0.15, 1.2),
        images=21_761,
        scenes="13 classes of objects: airplanes, harbours, bridges, sports fields and others",
        source="TGRS-HRRSD",
        homepage="https://github.com/CrazyStoneonRoad/TGRS-HRRSD-Dataset",
        source_licence=_SEE_SOURCE,
        citation="""\
@article{zhang2019hrrsd,
  title   = {Hierarchical and Robust Convolutional Neural Network for Very High-Resolution Remote Sensing Object
             Detection},
  author  = {Zhang, Yuanlin and Yuan, Yuan and Feng, Yachuang and Lu, Xiaoqiang},
  journal = {IEEE Transactions on Geoscience and Remote Sensing},
  volume  = {57},
  number  = {8},
  pages   = {5535--5548},
  year    = {2019}
}
""",
    ),
    Subset(
        name="GID",
        modalities=("rgb",),
        sensor="GF-2",
        gsd="1 to 4",
        gsd_range=(1.0, 4.0),
        images=31_500,
        scenes="land cover in China: built-up, farmland, forest, meadow, water",
        source="Gaofen Image Dataset (GID)",
        homepage="https://x-ytong.github.io/project/GID.html",
        source_licence=_SEE_SOURCE,
        citation="""\
@article{tong2020gid,
  title   = {Land-cover classification with high-resolution remote sensing images using transferable deep models},
  author  = {Tong, Xin-Yi and Xia, Gui-Song and Lu, Qikai and Shen, Huanfeng and Li, Shengyang and You, Shucheng and
             Zhang, Liangpei},
  journal = {Remote Sensing of Environment},
  volume  = {237},
  pages   = {111322},
  year    = {2020}
}
""",
    ),
    Subset(
        name="NaSC-TG2",
        modalities=("rgb",),
        sensor="Tiangong-2, wideband imaging spectrometer",
        gsd="100",
        gsd_range=(100.0, 100.0),
        images=20_000,
        scenes="ten classes of natural scenes, 2,000 each",
        source="NaSC-TG2",
        homepage="https://doi.org/10.1109/JSTARS.2021.3063096",
        source_licence=_SEE_SOURCE,
        citation="""\
@article{zhou2021nasctg2,
  title   = {{NaSC-TG2}: Natural Scene Classification With {Tiangong-2} Remotely Sensed Imagery},
  author  = {Zhou, Zhuang and Li, Shengyang and Wu, Wei and Guo, Weilong and Li, Xuan and Xia, Guisong and Zhao, Zifei},
  journal = {IEEE Journal of Selected Topics in Applied Earth Observations and Remote Sensing},
  volume  = {14},
  pages   = {3228--3242},
  year    = {2021},
  doi     = {10.1109/JSTARS.2021.3063096}
}
""",
    ),
    Subset(
        name="MRSSC2.0",
        modalities=("rgb",),
        sensor="Tiangong-2, wideband imaging spectrometer",
        gsd="100",
        gsd_range=(100.0, 100.0),
        images=6_155,
        scenes="classes of natural and man-made scenes; the source has infrared and radar too, but not aligned",
        source="MRSSC2.0",
        homepage="https://doi.org/10.5194/isprs-archives-XLIII-B2-2021-785-2021",
        source_licence=_SEE_SOURCE,
        citation="""\
@article{liu2021mrssc,
  title   = {{MRSSC}: A benchmark dataset for multimodal remote sensing scene classification},
  author  = {Liu, K. and Wu, A. and Wan, X. and Li, S.},
  journal = {The International Archives of the Photogrammetry, Remote Sensing and Spatial Information Sciences},
  volume  = {XLIII-B2-2021},
  year    = {2021},
  doi     = {10.5194/isprs-archives-XLIII-B2-2021-785-2021}
}
""",
    ),
    Subset(
        name="HRSC2016",
        modalities=("rgb",),
        sensor="mixed, by way of Google Earth",
        gsd="0.4 to 2",
        gsd_range=(0.4, 2.0),
        images=1_680,
        scenes="ships at sea and in harbours",
        source="HRSC2016",
        homepage="https://doi.org/10.5220/0006120603240331",
        source_licence=_SEE_SOURCE,
        citation="""\
@inproceedings{liu2017hrsc2016,
  title     = {A High Resolution Optical Satellite Image Dataset for Ship Recognition and Some New Baselines},
  author    = {Liu, Zikun and Yuan, Liu and Weng, Lubin and Yang, Yiping},
  booktitle = {International Conference on Pattern Recognition Applications and Methods (ICPRAM)},
  pages     = {324--331},
  year      = {2017},
  doi       = {10.5220/0006120603240331}
}
""",
    ),
)
SUBSETS: Mapping[str, Subset] = {subset.name: subset for subset in _SUBSETS}
ALL = "all"  # the config that holds every subset

# Every column of the builder: what it is, its unit, where it comes from.
FIELDS = {
    "key": "Identifies the sample, from the source's file name: `<Subset>/<path>`. The same in every conversion.",
    "subset": "The subset's name, as in `SUBSETS`.",
    "rgb": "The optical image, the release's bytes unchanged (512 x 512 pixels but for a few).",
    "prompt": "The prompt of the optical image, the release's text unchanged.",
    "nir": "The near infrared image: one band, stored by upstream as three equal channels.",
    "nir_prompt": "The prompt of the near infrared image.",
    "sar": "The radar image: one band, stored by upstream as three equal channels.",
    "sar_prompt": "The prompt of the radar image.",
    "caption": "The part of the first prompt that a vision-language model wrote; a sentence about the scene.",
    "category": "The scene's class: the record's own, else a part of the prompt.",
    "satellite": "The satellite or map service that the prompt names.",
    "weather": "The weather or light that the prompt names: fog, night or snow.",
    "gsd_level": "The class of GSD that the prompt states; without one, derived from `gsd`. "
    "ultra_high < 0.5 m, high < 1 m, ordinary < 5 m, low from 5 m, ultra_low 100 m.",
    "gsd_level_derived": "Whether `gsd_level` comes from metres and not from the prompt.",
    "gsd": "Ground sample distance, metres a pixel: the record's; for Inria by the file's name.",
    "cloud_cover": "Cloud cover as the record has it, in the source's unit.",
    "annotation": "The release's records verbatim, JSON text by modality.",
}


def subset_names(config: str) -> tuple[str, ...]:
    """The subsets of a config: itself, or all ten for `all`. Raises ValueError for an unknown name."""
    if config == ALL:
        return tuple(SUBSETS)
    if config not in SUBSETS:
        raise ValueError(f"{config!r}: no such subset. The configs are {', '.join([*SUBSETS, ALL])}")
    return (config,)


def config_modalities(config: str) -> tuple[str, ...]:
    """The modalities that samples of a config can have, in the order rgb, nir, sar."""
    found = {modality for name in subset_names(config) for modality in SUBSETS[name].modalities}
    return tuple(modality for modality in MODALITIES if modality in found)


def features(config: str, modalities: Sequence[str] | None = None, decode: bool = True) -> datasets.Features:
    """The builder's columns for a config; see FIELDS for what each is.

    `modalities`: only these; None for all that the config has. `decode`: give `PIL.Image`, not the file's bytes.
    """
    chosen = config_modalities(config) if modalities is None else tuple(m for m in MODALITIES if m in modalities)
    text = datasets.Value("string")
    columns: dict[str, object] = {"key": text, "subset": text}
    for modality in chosen:
        columns[modality] = datasets.Image(decode=decode)
        columns[PROMPT_COLUMNS[modality]] = text
    columns |= {
        "caption": text,
        "category": text,
        "satellite": text,
        "weather": datasets.ClassLabel(names=list(WEATHERS)),
        "gsd_level": datasets.ClassLabel(names=list(GSD_LEVELS)),
        "gsd_level_derived": datasets.Value("bool"),
        "gsd": datasets.Value("float64"),
        "cloud_cover": datasets.Value("float64"),
        "annotation": {modality: text for modality in chosen},
    }
    return datasets.Features(columns)


def wds_features(config: str) -> datasets.Features:
    """The columns that the shards have when they are loaded without code: what the card's YAML declares.

    Labels are strings here, as in the shards. `__key__` and `__url__` are declared because some versions of `datasets`
    refuse to stream without them.
    """
    text = datasets.Value("string")
    columns: dict[str, object] = {"__key__": text, "__url__": text}
    for modality in config_modalities(config):
        columns[MEMBERS[modality].image] = datasets.Image()
        columns[MEMBERS[modality].prompt] = text
    columns[METADATA_MEMBER] = {
        "subset": text,
        "source": {modality: text for modality in MODALITIES},
        "caption": text,
        "category": text,
        "weather": text,
        "satellite": text,
        "gsd": datasets.Value("float64"),
        "gsd_level": text,
        "gsd_level_derived": datasets.Value("bool"),
        "cloud_cover": datasets.Value("float64"),
        "annotation": {modality: text for modality in MODALITIES},
    }
    return datasets.Features(columns)


def index_schema() -> pa.Schema:
    """The columns of `index/<Subset>.parquet`, the same for every subset; one row a sample.

    Offsets count from the start of the shard to the image's first byte; offsets and sizes in bytes, widths and heights
    in pixels. Keys, labels and places stand first and long texts last, so that a filter over the network reads one
    stretch of each row group.
    """
    by_modality = pa.struct([(modality, pa.string()) for modality in MODALITIES])
    columns: list[tuple[str, pa.DataType]] = [
        ("key", pa.string()),
        ("split", pa.string()),
        ("shard", pa.string()),
        ("subset", pa.string()),
        ("category", pa.string()),
        ("weather", pa.string()),
        ("satellite", pa.string()),
        ("gsd", pa.float64()),
        ("gsd_level", pa.string()),
        ("gsd_level_derived", pa.bool_()),
        ("cloud_cover", pa.float64()),
    ]
    for modality in MODALITIES:
        columns += [(f"{modality}_{name}", pa.int64()) for name in ("offset", "size", "crc32")]
        columns += [(f"{modality}_{name}", pa.int32()) for name in ("width", "height")]
    columns += [(PROMPT_COLUMNS[modality], pa.string()) for modality in MODALITIES]
    columns += [("caption", pa.string()), ("source", by_modality), ("annotation", by_modality)]
    return pa.schema(columns)
