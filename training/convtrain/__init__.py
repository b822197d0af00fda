"""Train small image classifiers, prove their exports, publish versions.

The way of a run, and the files to read in that order::

    presets/        what to train: data, network, settings; config.py and architectures.py say what there is to set
    datasets/       labelled images in memory, verified, cut into three splits
    runs.py         the directory in which each step leaves its result for the next
    train.py        network.py builds the Keras model; weights of the best epoch remain
    evaluate.py     figures on the untouched test split
    export.py       SavedModel and ONNX, and nothing of both unless parity.py finds them equal to the trained model
    publish.py      manifest, golden vectors, the next version number
    pipeline.py     these steps one after the other; cli/ is the command line around them

Nothing here imports TensorFlow before it is needed, and nothing of `convserve` imports this package.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime, imported late in several places, would report to its makers
