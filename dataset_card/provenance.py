"""Where the ten subsets come from: sensors, scenes, licences and papers of their sources.

What is not known for certain says so. The table feeds the card, the Croissant file, the preview and `mmm-rs inspect`;
nothing that reads or converts depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmm_rs import HOMEPAGE

PAPER = "https://arxiv.org/abs/2410.22362"


@dataclass(frozen=True)
class Provenance:
    """The origin of one subset."""

    sensor: str
    gsd: str  # metres per pixel of the source images; resampled images of a sample can be coarser
    images: int  # of each modality, by upstream's README of August 2024: a figure to compare with, never a condition
    scenes: str
    source: str  # name of the dataset that upstream took the images from
    homepage: str
    licence: str
    citation: str  # BibTeX of the source; empty if MMM-RS itself is the source


SEE_SOURCE = "see source"  # its terms could not be established for certain

PROVENANCE: Mapping[str, Provenance] = {
    "weather": Provenance(
        sensor="mixed",
        gsd="mixed",
        images=30_000,
        scenes="fog, night and snow, 10,000 each; synthesised by upstream from clear images, or real",
        source="MMM-RS",
        homepage=HOMEPAGE,
        licence="as MMM-RS; " + SEE_SOURCE,
        citation="",
    ),
    "WHU-OPT-SAR": Provenance(
        sensor="GF-1 (optical, near infrared), GF-3 (SAR)",
        gsd="5",
        images=7_000,
        scenes="land use in Hubei, China: farmland, city, village, water, forest, road; aligned tiles",
        source="WHU-OPT-SAR",
        homepage="https://github.com/AmberHen/WHU-OPT-SAR-dataset",
        licence=SEE_SOURCE,
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
    "SEN1-2": Provenance(
        sensor="Sentinel-2 (optical), Sentinel-1 (SAR)",
        gsd="10",
        images=280_000,
        scenes="land surfaces all over the world, in all four seasons; aligned patches",
        source="SEN1-2",
        homepage="https://mediatum.ub.tum.de/1436631",
        licence="CC BY",
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
    "Inria": Provenance(
        sensor="aerial cameras",
        gsd="0.3",
        images=2_872,
        scenes="towns and their surroundings in Europe and North America; each at 0.3, 0.6, 1.2 and 2.4 m",
        source="Inria Aerial Image Labeling",
        homepage="https://project.inria.fr/aerialimagelabeling/",
        licence=SEE_SOURCE,
        citation="""\
@inproceedings{maggiori2017inria,
  title     = {Can Semantic Labeling Methods Generalize to Any City? The {Inria} Aerial Image Labeling Benchmark},
  author    = {Maggiori, Emmanuel and Tarabalka, Yuliya and Charpiat, Guillaume and Alliez, Pierre},
  booktitle = {IEEE International Geoscience and Remote Sensing Symposium (IGARSS)},
  year      = {2017}
}
""",
    ),
    "fMoW": Provenance(
        sensor="WorldView-2 and -3, GeoEye-1, QuickBird-2",
        gsd="0.3 to 0.5 and coarser",
        images=930_000,
        scenes="62 classes of buildings and land use all over the world",
        source="Functional Map of the World (fMoW)",
        homepage="https://github.com/fMoW/dataset",
        licence="Functional Map of the World Challenge Public License",
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
    "TGRS-HRRSD": Provenance(
        sensor="mixed, by way of Google Earth and Baidu Map",
        gsd="0.15 to 1.2",
        images=21_761,
        scenes="13 classes of objects: airplanes, harbours, bridges, sports fields and others",
        source="TGRS-HRRSD",
        homepage="https://github.com/CrazyStoneonRoad/TGRS-HRRSD-Dataset",
        licence=SEE_SOURCE,
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
    "GID": Provenance(
        sensor="GF-2",
        gsd="1 to 4",
        images=31_500,
        scenes="land cover in China: built-up, farmland, forest, meadow, water",
        source="Gaofen Image Dataset (GID)",
        homepage="https://x-ytong.github.io/project/GID.html",
        licence=SEE_SOURCE,
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
    "NaSC-TG2": Provenance(
        sensor="Tiangong-2, wideband imaging spectrometer",
        gsd="100",
        images=20_000,
        scenes="ten classes of natural scenes, 2,000 each",
        source="NaSC-TG2",
        homepage="https://doi.org/10.1109/JSTARS.2021.3063096",
        licence=SEE_SOURCE,
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
    "MRSSC2.0": Provenance(
        sensor="Tiangong-2, wideband imaging spectrometer",
        gsd="100",
        images=6_155,
        scenes="classes of natural and man-made scenes; the source has infrared and radar too, but not aligned",
        source="MRSSC2.0",
        homepage="https://doi.org/10.5194/isprs-archives-XLIII-B2-2021-785-2021",
        licence=SEE_SOURCE,
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
    "HRSC2016": Provenance(
        sensor="mixed, by way of Google Earth",
        gsd="0.4 to 2",
        images=1_680,
        scenes="ships at sea and in harbours",
        source="HRSC2016",
        homepage="https://doi.org/10.5220/0006120603240331",
        licence=SEE_SOURCE,
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
}
