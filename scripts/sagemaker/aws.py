"""Where the notebook runs its endpoints: on AWS, with the credentials and the region that boto3 finds."""

import os


def variable(name, what):
    """A variable of the environment, or an error that says what belongs there."""
    if not os.environ.get(name):
        raise KeyError(f"set {name}: {what}")
    return os.environ[name]


class Site:
    """What the notebook needs to know of the place."""

    image = variable("PEREGRINE_IMAGE", "the image of Peregrine in ECR, as ACCOUNT.dkr.ecr.REGION.amazonaws.com/peregrine:0.1.0")
    role = variable("PEREGRINE_ROLE", "the ARN of a role that SageMaker may take, which reads the model and the image")
    # An archive, or the S3 prefix of an unpacked folder, which ends in a slash.
    model_uri = variable("PEREGRINE_MODEL", "s3://BUCKET/model.tar.gz, or s3://BUCKET/falcon-180b-chat/")
    poll_s = 30


site = Site()
