"""The model fetcher: the init container that brings a model from S3 to a serving pod."""
