"""What the Grafana dashboard shows, row by row: titles, how to read them, and expressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

INFERENCE = 'method=~"Classify|ModelInfer|ModelStreamInfer|Predict"'
SERVER = 'job=~"$job"'
MODEL = f'{SERVER}, model=~"$model"'


@dataclass(frozen=True)
class Panel:
    """One graph: what it is called, how to read it, and its expressions by legend."""

    title: str
    description: str
    queries: Mapping[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False
    limits: Mapping[str, float] = field(default_factory=dict)


def rate(metric: str, selector: str, by: str) -> str:
    """Per-second increase, added up."""
    return f"sum by ({by}) (rate({metric}{{{selector}}}[$__rate_interval]))"


def quantile(share: float, metric: str, selector: str, by: str = "model") -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({share}, {rate(metric + '_bucket', selector, by + ', le')})"


def mean(metric: str, selector: str, by: str = "model") -> str:
    """The mean of a histogram."""
    return f"{rate(metric + '_sum', selector, by)} / {rate(metric + '_count', selector, by)}"


REQUESTS = "convserve_request_duration_seconds"
ROWS: dict[str, Sequence[Panel]] = {
    "Requests, errors, duration": (
        Panel(
            "Ready", "Replicas that want traffic.", {"ready": f"sum(convserve_ready{{{SERVER}}})"}, kind="stat", width=4
        ),
        Panel(
            "Models that cannot answer",
            "Models without an available version, over all replicas.",
            {"models": f"count(convserve_default_version{{{MODEL}}} == 0) or vector(0)"},
            kind="stat",
            width=4,
        ),
        Panel(
            "Failed, last hour",
            "Share of the requests that the server is to blame for; the objective allows 0.1 %.",
            {"{{job}}": f'convserve:request_errors:ratio_rate1h{{{SERVER}, model=""}}'},
            unit="percentunit",
            kind="stat",
            width=4,
            limits={"orange": 0.001, "red": 0.0144},
        ),
        Panel(
            "Slower than 0.1 s, last hour",
            "Share of the requests; the objective allows 1 %.",
            {"{{job}}": f'convserve:request_slow:ratio_rate1h{{{SERVER}, model=""}}'},
            unit="percentunit",
            kind="stat",
            width=4,
            limits={"orange": 0.01, "red": 0.144},
        ),
        Panel(
            "Budget burned",
            "How many times faster than allowed the month's budgets go, over an hour. 1 uses them up exactly; above"
            " 14.4 somebody is paged.",
            {
                "failures {{model}}": f"convserve:request_errors:ratio_rate1h{{{MODEL}}} / 0.001",
                "slowness {{model}}": f"convserve:request_slow:ratio_rate1h{{{MODEL}}} / 0.01",
            },
        ),
        Panel(
            "Requests by status",
            "Requests that classify, per second, by gRPC status code.",
            {"{{code}}": rate("convserve_requests_total", f"{MODEL}, {INFERENCE}", "code")},
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Requests by model and method",
            "All methods; the label model is empty where a request never got as far as a model.",
            {"{{api}} {{method}} {{model}}": rate("convserve_requests_total", SERVER, "api, method, model")},
            unit="reqps",
        ),
        Panel(
            "Failed requests",
            "INTERNAL, UNAVAILABLE, RESOURCE_EXHAUSTED and DEADLINE_EXCEEDED as a share of all.",
            {"{{model}}": f"convserve:request_errors:ratio_rate5m{{{MODEL}}}"},
            unit="percentunit",
        ),
        Panel(
            "Duration",
            "From the arrival of a request's message to its answer, in the server.",
            {
                f"p{round(share * 100)} {{{{model}}}}": quantile(share, REQUESTS, f"{MODEL}, {INFERENCE}")
                for share in (0.5, 0.9, 0.99)
            },
            unit="s",
            width=12,
        ),
        Panel(
            "Duration, all of it",
            "Requests per second by duration.",
            {"{{le}}": rate(REQUESTS + "_bucket", f"{MODEL}, {INFERENCE}", "le")},
            kind="heatmap",
            width=12,
        ),
    ),
    "Queue and batch": (
        Panel(
            "Waiting in the queue",
            "From a request's arrival in the queue to the start of its batch.",
            {
                f"p{round(share * 100)} {{{{model}}}}": quantile(share, "convserve_queue_duration_seconds", MODEL)
                for share in (0.5, 0.99)
            },
            unit="s",
        ),
        Panel(
            "How full the queues are",
            "The fullest replica's, of rows or bytes. Full queues refuse.",
            {"{{model}}": f"model:convserve_queue_fill:max{{{MODEL}}}"},
            unit="percentunit",
        ),
        Panel(
            "Rows waiting and running",
            "Images, over all replicas.",
            {
                "waiting {{model}}": f"sum by (model) (convserve_queue_rows{{{MODEL}}})",
                "running {{model}}": f"sum by (model) (convserve_in_flight_rows{{{MODEL}}})",
            },
        ),
        Panel(
            "Images in a batch",
            "Mean, and the most that the settings allow. Batches grow by themselves under load.",
            {
                "mean {{model}}": mean("convserve_batch_rows", MODEL),
                "allowed {{model}}": f"max by (model) (convserve_max_batch_rows{{{MODEL}}})",
            },
        ),
        Panel(
            "Why batches went",
            "full: as many as allowed. idle: a slot was free. window: max_queue_delay was over. deadline: somebody"
            " could wait no longer. drain: the version is going.",
            {"{{reason}}": rate("convserve_batches_total", MODEL, "reason")},
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Padding",
            "Share of the computed rows that held no image.",
            {"{{model}}": f"model:convserve_batch_padding:ratio_rate5m{{{MODEL}}}"},
            unit="percentunit",
        ),
        Panel(
            "Time until a batch went",
            "Mean, from the arrival of its first row.",
            {"{{model}}": mean("convserve_batch_wait_duration_seconds", MODEL)},
            unit="s",
        ),
        Panel(
            "Refused at the door",
            "By reason; nothing was computed for them.",
            {"{{reason}} {{model}}": rate("convserve_refused_requests_total", MODEL, "reason, model")},
            unit="reqps",
        ),
        Panel(
            "Dropped from the queue",
            "The caller was gone, or it was too late.",
            {"{{reason}} {{model}}": rate("convserve_dropped_requests_total", MODEL, "reason, model")},
            unit="reqps",
        ),
    ),
    "Execution": (
        Panel(
            "Computing a batch",
            "Time in the runtime.",
            {
                f"p{round(share * 100)} {{{{model}}}}": quantile(share, "convserve_run_duration_seconds", MODEL)
                for share in (0.5, 0.99)
            },
            unit="s",
        ),
        Panel(
            "Images computed",
            "Per second, padding not counted.",
            {"{{model}}": rate("convserve_rows_total", MODEL, "model")},
            unit="ops",
        ),
        Panel(
            "Busy execution slots",
            "Batches that compute at the same time, on average. At as many as there are slots, more load only waits.",
            {"{{model}}": rate("convserve_run_duration_seconds_sum", MODEL, "model")},
        ),
        Panel(
            "Where the time goes",
            "Means: the whole request, waiting for its batch, computing its batch. The rest is the transport's.",
            {
                "request {{model}}": mean(REQUESTS, f"{MODEL}, {INFERENCE}"),
                "queue {{model}}": mean("convserve_queue_duration_seconds", MODEL),
                "run {{model}}": mean("convserve_run_duration_seconds", MODEL),
            },
            unit="s",
            width=12,
        ),
        Panel(
            "Failed batches",
            "Every request in them got INTERNAL; the log has the reason.",
            {"{{model}} {{version}}": rate("convserve_batch_failures_total", MODEL, "model, version")},
            unit="ops",
            width=12,
        ),
    ),
    "Resources": (
        Panel(
            "CPU",
            "Cores' worth of time that the replicas use.",
            {"{{instance}}": f"rate(process_cpu_seconds_total{{{SERVER}}}[$__rate_interval])"},
        ),
        Panel(
            "Memory",
            "Resident, all workers of a replica together.",
            {"{{instance}}": f"process_resident_memory_bytes{{{SERVER}}}"},
            unit="bytes",
        ),
        Panel(
            "Requests under way",
            "Being handled at this moment.",
            {"{{instance}} {{api}}": f"convserve_requests_in_flight{{{SERVER}}}"},
        ),
        Panel(
            "Workers",
            "Processes that answer, and those that died and were replaced. Only with several workers.",
            {
                "answering {{instance}}": f"convserve_workers{{{SERVER}}}",
                "died within an hour {{instance}}": f"increase(convserve_worker_restarts_total{{{SERVER}}}[1h])",
                "of these hung {{instance}}": f"increase(convserve_worker_hangs_total{{{SERVER}}}[1h])",
            },
        ),
        Panel(
            "Threads for one batch",
            "What the server made of affinity and cgroup limits.",
            {"{{instance}}": f"convserve_intra_op_threads{{{SERVER}}}"},
        ),
        Panel(
            "Open files",
            "Share of what the processes may open; connections are files.",
            {"{{instance}}": f"process_open_fds{{{SERVER}}} / process_max_fds{{{SERVER}}}"},
            unit="percentunit",
        ),
    ),
    "Versions and drift": (
        Panel(
            "What serves",
            "Available versions, their content, and what computes them.",
            {
                "": f"count by (model, version, device, provider, digest) (convserve_version_info{{{MODEL}}})",
            },
            kind="table",
            width=16,
        ),
        Panel(
            "Aliases",
            "Which version each alias stands for.",
            {"": f"count by (model, alias, version) (convserve_alias_info{{{MODEL}}})"},
            kind="table",
        ),
        Panel(
            "Versions by state",
            "failed: could not be proved; the log and ListModels say why.",
            {"{{model}} {{state}}": f'sum by (model, state) (convserve_versions{{{MODEL}, state!="unloaded"}})'},
        ),
        Panel(
            "Images by version",
            "Per second: a split, and a swap, can be seen here.",
            {"{{model}} {{version}}": rate("convserve_rows_total", MODEL, "model, version")},
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Shadow disagrees",
            "Share of the images that a shadow version classifies otherwise, over an hour.",
            {"{{model}} {{shadow_version}}": f"model:convserve_shadow_disagreement:ratio_rate1h{{{MODEL}}}"},
            unit="percentunit",
        ),
        Panel(
            "Drift",
            "Population stability index against the training images. Below 0.1 is stable, above 0.25 is a shift.",
            {
                "{{model}} {{version}} {{feature}}": "max by (model, version, feature)"
                f" (convserve_drift_stability_index{{{MODEL}}})"
            },
        ),
        Panel(
            "Confidence",
            "Mean probability of the class found. A fall without a drift of the images is worth a look.",
            {"{{model}} {{version}}": mean("convserve_prediction_confidence", MODEL, "model, version")},
            unit="percentunit",
        ),
        Panel(
            "Classes found",
            "Images per second by class.",
            {"{{model}} {{label}}": rate("convserve_predictions_total", MODEL, "model, label")},
            unit="ops",
            stacked=True,
        ),
    ),
}
