"""Generated from protos/convserve/v1 by protos/generate.sh. Only this file is written by hand."""
