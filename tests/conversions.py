"""`convert` and `verify` as the command line and the documented examples call them: with the dataset's own card."""

from functools import partial

import conversion
from dataset_card import card

convert = partial(conversion.convert, card=card)
verify = partial(conversion.verify, card=card)
