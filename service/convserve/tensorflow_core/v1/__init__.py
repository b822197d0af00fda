"""Generated from protos/convserve/tensorflow_core/v1 by protos/generate.sh. Only this file is written by hand."""
