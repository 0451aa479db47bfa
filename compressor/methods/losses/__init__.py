"""Losses as terms. To add one: its module, then its line in `LOGIT_LOSSES` or `FEATURE_LOSSES`."""

from typing import Annotated

from pydantic import BaseModel

from compressor.kinds import Kinds
from compressor.methods.losses.attention import AT
from compressor.methods.losses.crd import CRD
from compressor.methods.losses.ctkd import CTKD
from compressor.methods.losses.dist import DIST
from compressor.methods.losses.dkd import DKD
from compressor.methods.losses.features import Features
from compressor.methods.losses.fitnet import FitNet
from compressor.methods.losses.fsp import FSP
from compressor.methods.losses.kl import KL, LSKD
from compressor.methods.losses.nd import ND
from compressor.methods.losses.pkt import PKT
from compressor.methods.losses.protocol import Feature, FeatureLoss, LogitLoss, LogitTerm
from compressor.methods.losses.review import ReviewKD
from compressor.methods.losses.rkd import RKD
from compressor.methods.losses.sp import SP
from compressor.methods.losses.ttm import TTM, WTTM
from compressor.methods.losses.vkd import VkD
from compressor.methods.losses.wkd_f import WKDF
from compressor.methods.losses.wkd_l import WKDL

LOGIT_LOSSES: dict[str, type[BaseModel]] = {
    "kl": KL,
    "lskd": LSKD,
    "dkd": DKD,
    "dist": DIST,
    "ttm": TTM,
    "wttm": WTTM,
    "ctkd": CTKD,
    "wkd-l": WKDL,
}
FEATURE_LOSSES: dict[str, type[BaseModel]] = {
    "fitnet": FitNet,
    "at": AT,
    "sp": SP,
    "rkd": RKD,
    "pkt": PKT,
    "fsp": FSP,
    "nd": ND,
    "vkd": VkD,
    "wkd-f": WKDF,
    "reviewkd": ReviewKD,
    "crd": CRD,
}
AnyLogitLoss = Annotated[LogitLoss, Kinds(LOGIT_LOSSES, "mypackage.losses:Mine")]
AnyFeatureLoss = Annotated[FeatureLoss, Kinds(FEATURE_LOSSES, "mypackage.losses:Mine")]

__all__ = [
    "FEATURE_LOSSES",
    "LOGIT_LOSSES",
    "AnyFeatureLoss",
    "AnyLogitLoss",
    "Feature",
    "FeatureLoss",
    "Features",
    "LogitLoss",
    "LogitTerm",
]
