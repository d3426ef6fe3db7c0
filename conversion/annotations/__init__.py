"""Any annotation file of the release as one stream of records.

Form, keys and encoding are recognised by content, since upstream publishes none of them.

How it works:
- `encoding` judges the encoding, `window` decodes the file a piece at a time, and `scanner` cuts JSON values from it
  with `json`'s own scanner.
- `parser` finds the records in any form; `shape` tells it what a value looks like, and `recovery` where the next record
  begins behind a damaged one. Memory does not grow with the file.
- `joined` joins COCO's two lists, and `other_forms` names forms that cannot be used.
- `records` lets the first records choose the keys (`keys`, `values`). What then cannot be used becomes a Record with a
  problem, and the rest goes on.
"""

from conversion.annotations.records import AnnotationError, Form, Record, UnknownKeys, read
from conversion.annotations.window import Limits

__all__ = ["AnnotationError", "Form", "Limits", "Record", "UnknownKeys", "read"]
