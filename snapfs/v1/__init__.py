"""The API's messages and services, generated from proto/snapfs/v1 by `make generate`."""
