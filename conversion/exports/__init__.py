"""From a converted dataset to a smaller one, a folder of images, or Parquet.

The way of the data: `source` -> `selection`, `rows` -> `parts` (the plan) -> `dataset`, `folder` or `parquet` (the
forms); `job` runs them.
"""
