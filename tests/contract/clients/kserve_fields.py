"""Tells the fields of Kubernetes objects (JSON on stdin) that KServe's own classes do not know.

Run with -P: kserve.py beside this file would be taken for the package.
"""

import json
import re
import sys

import kserve
import kubernetes.client

KINDS = {"ServingRuntime": kserve.V1alpha1ServingRuntime, "InferenceService": kserve.V1beta1InferenceService}


def unknown(value, kind, path):
    """Paths below `value` that its type has no field for; `kind` is a class, or a name as the classes write it."""
    if isinstance(kind, str):
        item = re.fullmatch(r"list\[(.+)\]", kind)
        if item:
            return [found for index, each in enumerate(value) for found in unknown(each, item[1], f"{path}[{index}]")]
        kind = getattr(kserve, kind, None) or getattr(kubernetes.client, kind, None)
    if kind is None or not hasattr(kind, "attribute_map"):
        return []
    attributes = {name: attribute for attribute, name in kind.attribute_map.items()}
    missing = [f"{path}.{key}" for key in value if key not in attributes]
    nested = (
        unknown(value[key], kind.openapi_types[attributes[key]], f"{path}.{key}") for key in value if key in attributes
    )
    return missing + [found for each in nested for found in each]


objects = json.load(sys.stdin)
sys.stdout.write(json.dumps([found for each in objects for found in unknown(each, KINDS[each["kind"]], each["kind"])]))
