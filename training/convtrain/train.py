"""Training: from a run's record and data to the weights of the best epoch.

Every epoch is a function of the state before it and of (seed, epoch): order and augmentation are drawn anew from those
two numbers, and all else that moves (weights, optimizer, dropout) is in the checkpoint. So a run that was cut off and
resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from convserve.arrays import Images
from convserve.manifest import LOGITS_NAME, PROBABILITIES_NAME
from convtrain import backend, files, network, optimizers, tensorboard, weights, whitening
from convtrain.augmentation import alternation, augment, mix
from convtrain.averaging import Average
from convtrain.config import Loss, TrainingConfig
from convtrain.datasets import Labels, Split
from convtrain.errors import RunError, TrainingError, TrainingInterruptedError
from convtrain.files import Arrays
from convtrain.history import Epoch, History
from convtrain.predictions import batch_size
from convtrain.progress import Advance, bar, console, duration
from convtrain.resizing import resize
from convtrain.runs import Data, Run, RunRecord


def train(run: Run, data: Data) -> History:
    """Train until the last epoch or until validation gets no better; goes on from a checkpoint if there is one.

    Writes `checkpoint.npz` and `history.csv` after every epoch and `weights.npz` at the end.

    Raises:
        TrainingError: the loss became NaN or infinite, or disk or memory are full; the checkpoint is that of the epoch
            before.
        TrainingInterruptedError: Ctrl-C; the checkpoint is that of the last finished epoch.
        RunError: the checkpoint is damaged or of another network, or epochs are left that another backend must train.
        MissingExtraError: TensorFlow is not installed.
    """
    config = run.record.preset.training
    backend.seed_everything(config.seed)
    with backend.memory_errors():
        pair = _Pair(run.record)
    state = _State(run, pair)
    state.restore()
    resumed = len(state.history.epochs)
    if run.record.backend not in (None, backend.chosen()) and not state.history.finished(config):
        raise RunError(
            f"{run.directory}: {resumed} of {config.epochs} epochs are trained, with {run.record.backend}; so must the "
            f"others be: convtrain train --resume {run.directory}"
        )
    if resumed:
        console.print(f"resumed after epoch {resumed} of {config.epochs}")
    else:
        whitening.initialize(pair.trainer, run.record.preset.architecture, data.train.images)
        pair.average.start()
    steps = math.ceil(len(data.train) / config.batch_size)
    try:
        events = tensorboard.EventFile(run.tensorboard_directory)
        with bar("train", steps * config.epochs, done=steps * resumed, unit="steps") as advance:
            while not state.history.finished(config):
                with backend.memory_errors():
                    epoch = _run_epoch(pair, config, data, len(state.history.epochs) + 1, advance)
                state.save(epoch)
                events.add(epoch)
                console.print(_line(state.history, config.epochs))
        state.restore_best()
        weights.save(run.weights_path, pair.result)
    except KeyboardInterrupt as error:
        raise TrainingInterruptedError(
            f"interrupted; {len(state.history.epochs)} of {config.epochs} epochs are saved, continue with "
            f"--resume {run.directory}"
        ) from error
    except MemoryError as error:
        raise TrainingError(
            f"not enough memory for batches of {config.batch_size} images; a smaller --batch-size may help ({error})"
        ) from error
    except OSError as error:
        raise TrainingError(
            f"{run.directory}: cannot be written ({error.strerror or error}); {len(state.history.epochs)} of "
            f"{config.epochs} epochs are saved, continue with --resume {run.directory}"
        ) from error
    return state.history


def load_trained(run: Run, temperature: float = 1.0) -> Any:
    """Build the run's network with its trained weights: the model that `network.build` describes, float32.

    Raises:
        RunError: training is not finished, or the file is damaged or of another network.
        MissingExtraError: TensorFlow is not installed.
    """
    record = run.record
    # Keras numbers layers on and on in a process; their names, and so the exported bytes, shall be of this model alone.
    backend.keras().utils.clear_session()
    model = network.build(record.preset.architecture, record.preset.input, len(record.labels), temperature=temperature)
    weights.load(run.weights_path, model)
    return model


def read_history(run: Run) -> History:
    """Figures of the epochs so far.

    Raises:
        RunError: there is no checkpoint, or it is damaged.
    """
    return _history(weights.read(run.checkpoint_path), run.checkpoint_path)


class _Pair:
    """The network in training, and the one it is trained for: what would be exported at any moment.

    The first may compute in bfloat16 and see images of several sizes; the second is float32, of the one size, and has
    the average of the first one's weights, or a copy of them.
    """

    def __init__(self, record: RunRecord) -> None:
        preset, classes = record.preset, len(record.labels)
        config = preset.training
        learner = network.build_for_training(
            preset.architecture,
            preset.input,
            classes,
            precision=config.precision,
            any_size=bool(config.progressive_resizing),
        )
        for layer in learner.layers:
            if isinstance(layer, backend.keras().layers.BatchNormalization):
                layer.momentum = config.batch_norm_momentum
        self.trainer = _compiled(learner, config)
        self.trainer.optimizer.build(self.trainer.trainable_variables)
        self.result = network.build(preset.architecture, preset.input, classes)
        self.validator = _compiled(self.result, config)
        self.average = Average(learner.weights, self.result.weights, config.weight_averaging)


class _State:
    """What moves during training, in memory and in the checkpoint."""

    def __init__(self, run: Run, pair: _Pair) -> None:
        self.history = History()
        self._run = run
        self._pair = pair
        self._trainer = pair.trainer
        self._best: Arrays = {}

    def restore(self) -> None:
        """Take the checkpoint's state, if there is one."""
        path = self._run.checkpoint_path
        if not path.exists():
            return
        arrays = weights.read(path)
        weights.unpack(arrays, "model", self._trainer.variables, path)
        weights.unpack(arrays, "optimizer", self._trainer.optimizer.variables, path)
        weights.unpack(arrays, "result", self._pair.result.weights, path)
        self._best = {name: array for name, array in arrays.items() if name.startswith("best/")}
        self.history = _history(arrays, path)
        self._write_table()  # the process may have ended between the two files

    def save(self, epoch: Epoch) -> None:
        """Take in a finished epoch and write the checkpoint."""
        history = self.history.extended(epoch)
        if history.best == epoch.epoch:
            self._best = weights.pack("best", self._pair.result.weights)
        arrays = {
            "history": np.frombuffer(msgspec.json.encode(history), np.uint8),
            **weights.pack("model", self._trainer.variables),
            **weights.pack("optimizer", self._trainer.optimizer.variables),
            **weights.pack("result", self._pair.result.weights),
            **self._best,
        }
        files.write_arrays(self._run.checkpoint_path, arrays)
        self.history = history
        self._write_table()

    def _write_table(self) -> None:
        files.write_bytes(self._run.history_path, self.history.to_csv())

    def restore_best(self) -> None:
        """Give the network that training is for the weights of the best epoch."""
        weights.unpack(self._best, "best", self._pair.result.weights, self._run.checkpoint_path)


def _history(arrays: Arrays, source: Path) -> History:
    if "history" not in arrays:
        raise RunError(f"{source}: is not a checkpoint, it has no history")
    return msgspec.json.decode(arrays["history"].tobytes(), type=History)


def _run_epoch(pair: _Pair, config: TrainingConfig, data: Data, number: int, advance: Advance) -> Epoch:
    """Go through the training images once, then measure on the validation split."""
    started = time.perf_counter()
    steps = math.ceil(len(data.train) / config.batch_size)
    trainer = pair.trainer

    def before_step(step: int, **_: object) -> None:
        factor = config.schedule.factor((number - 1) * steps + step, config.epochs * steps)
        trainer.optimizer.learning_rate.assign(config.optimizer.learning_rate * factor)

    def after_step(step: int, logs: dict[str, float]) -> None:
        if not math.isfinite(logs["loss"]):
            raise TrainingError(
                f"the loss became {logs['loss']} in epoch {number}, step {step + 1}; a lower --learning-rate may help "
                f"(it is {config.optimizer.learning_rate:g})"
            )
        if backend.chosen() == "jax":
            trainer.jax_state_sync()  # Keras keeps the weights to itself during an epoch
        pair.average.update((number - 1) * steps + step)
        text = f"epoch {number}/{config.epochs}  loss {logs['loss']:.4f}  accuracy {logs['accuracy']:.4f}"
        advance(1, text)

    classes = len(data.dataset.labels)
    images, labels = _arrange(data.train, config, number, classes)
    if number > 1 and config.image_scale(number) != config.image_scale(number - 1):
        # A new graph for the new size: one for both would be another than that of a run resumed here.
        trainer.make_train_function(force=True)
    figures = trainer.fit(
        images,
        labels,
        batch_size=config.batch_size,
        shuffle=False,  # arranged already
        verbose=0,
        callbacks=[
            backend.keras().callbacks.LambdaCallback(on_train_batch_begin=before_step, on_train_batch_end=after_step)
        ],
    ).history
    pair.average.finish_epoch()
    if not all(np.isfinite(weight.numpy()).all() for weight in pair.result.weights):
        # The last step's loss was still a number, its outcome is not, and nothing could go on from a checkpoint of it.
        raise TrainingError(
            f"the weights became NaN or infinite in the last step of epoch {number}; a lower --learning-rate may help "
            f"(it is {config.optimizer.learning_rate:g})"
        )
    validation: dict[str, float] = {}
    if len(data.validation):
        validation = pair.validator.evaluate(
            data.validation.images,
            _encode(data.validation.labels, classes, config.loss),
            batch_size=batch_size(data.validation.images),
            verbose=0,
            return_dict=True,
        )
    return Epoch(
        epoch=number,
        loss=float(figures["loss"][0]),
        accuracy=float(figures["accuracy"][0]),
        validation_loss=validation.get("loss"),
        validation_accuracy=validation.get("accuracy"),
        seconds=time.perf_counter() - started,
    )


def _compiled(model: Any, config: TrainingConfig) -> Any:
    """A compiled model that shares the network's layers and has the one output that the loss is computed from."""
    keras = backend.keras()
    loss = config.loss
    from_logits = loss.computed_from == "logits"
    compiled = keras.Model(model.input, model.output[LOGITS_NAME if from_logits else PROBABILITIES_NAME])
    compiled.compile(
        optimizer=optimizers.make(config.optimizer),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        if loss.labels == "sparse"
        else keras.losses.CategoricalCrossentropy(from_logits=from_logits, label_smoothing=loss.label_smoothing),
        metrics=["accuracy"],
        jit_compile=backend.chosen() == "jax",  # TensorFlow's is slower on CPU, and not deterministic
    )
    return compiled


def _arrange(train: Split, config: TrainingConfig, epoch: int, classes: int) -> tuple[Images, npt.NDArray[Any]]:
    """The images of one epoch in their order, changed at random, with labels as the loss wants them."""
    rng = np.random.default_rng((config.seed, epoch))
    order = rng.permutation(len(train))
    mirrored = None
    if config.augmentation.horizontal_flip == "alternating":
        mirrored = alternation(len(train), config.seed, epoch)[order]
    images = augment(train.images[order], config.augmentation, rng, mirrored)
    labels = _encode(train.labels[order], classes, config.loss)
    if config.augmentation.cutmix:
        images, labels = mix(images, labels, config.augmentation.cutmix, rng)
    return resize(images, config.image_scale(epoch)), labels


def _encode(labels: Labels, classes: int, loss: Loss) -> npt.NDArray[Any]:
    """Labels as the loss wants them: int64 [N], or float32 [N, classes]."""
    return labels if loss.labels == "sparse" else np.eye(classes, dtype=np.float32)[labels]


def _line(history: History, epochs: int) -> str:
    """One line for people, with the time left if all epochs are trained."""
    epoch = history.epochs[-1]
    text = f"epoch {epoch.epoch}/{epochs}  loss {epoch.loss:.4f}  accuracy {epoch.accuracy:.4f}"
    if epoch.validation_accuracy is not None:
        text += f"  validation loss {epoch.validation_loss:.4f}  validation accuracy {epoch.validation_accuracy:.4f}"
    left = (epochs - epoch.epoch) * history.seconds / epoch.epoch
    return f"{text}  {epoch.seconds:.1f} s" + (f", {duration(left)} left" if left else "")
