"""Generated from protos/convserve/open_inference/v2 by protos/generate.sh. Only this file is written by hand."""
