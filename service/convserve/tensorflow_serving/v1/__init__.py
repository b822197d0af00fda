"""Generated from protos/convserve/tensorflow_serving/v1 by protos/generate.sh. Only this file is written by hand."""
