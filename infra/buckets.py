"""Make the S3 buckets that are named on the command line, those that are not there yet. Runs in compose.yaml.

The store and its keys are those of the environment: AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY.
"""

import sys

import boto3
from botocore.exceptions import ClientError


def make(names: list[str]) -> None:
    """Raises ClientError where the store refuses for any other reason than that the bucket is ours already."""
    s3 = boto3.client("s3")
    for name in names:
        try:
            s3.head_bucket(Bucket=name)
            print(f"bucket {name} is there")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            s3.create_bucket(Bucket=name)
            print(f"bucket {name} made")


if __name__ == "__main__":
    make(sys.argv[1:])
