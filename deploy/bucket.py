"""Make the bucket that LORAJOB_ARTIFACTS names, where it is not there yet.

For an object store that starts empty. Whose it is and where, say AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL.
"""

import os
import sys

from fsspec.core import url_to_fs

url = os.environ.get("LORAJOB_ARTIFACTS", "")
if "://" not in url:
    sys.exit(f"LORAJOB_ARTIFACTS: {url!r} is not a url such as s3://bucket/jobs")
files, path = url_to_fs(url)
bucket = path.strip("/").partition("/")[0]
try:
    files.makedirs(bucket, exist_ok=True)
except OSError as error:
    sys.exit(f"{bucket}: cannot be made, so make it yourself: {error}")
print(f"{url.partition(':')[0]}://{bucket} is there")
