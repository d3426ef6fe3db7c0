"""Any annotation file of the release as one stream of records.

Form, keys and encoding are recognised by content, since upstream publishes none of them.

How it works:
- The file is decoded a window at a time and cut into records by `json`'s own scanner: memory does not grow with it.
- Whether an object is a record, a table keyed by image path or a wrapper around records is decided by as much of it as
  a record can have at the most. What is longer than that holds records, or is nobody's description of one image.
- The first records choose the keys. What then cannot be used becomes a Record with a problem, and the rest goes on.
"""

from conversion.annotations.records import AnnotationError, Form, Record, read

__all__ = ["AnnotationError", "Form", "Record", "read"]
