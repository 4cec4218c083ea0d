"""simulate: what policies of scaling would cost and miss, before an endpoint is deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lightmill.cli.curves import draw
from lightmill.cli.operations import operate
from lightmill.cli.output import JsonOption, console, print_json, print_table
from lightmill.errors import RequestError
from lightmill.records.scaling import ForecastPolicy
from lightmill.records.simulations import SimulatedPolicy, SimulationReport
from lightmill.records.specs import EndpointSpec, load_spec

MADE = ("constant", "diurnal", "spike")
POLICIES = ("queue", "latency", "schedule", "forecast")
SEASON_PARTS = 60
_COLUMNS = ("policy", "replica hours", "mean", "most", "changes", "requests", "missed", "p50", "p99")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulate")(simulate)


def simulate(
    spec: Annotated[
        Path | None, typer.Argument(help="The YAML specification of an endpoint; without, 1 to 10.")
    ] = None,
    trace: Annotated[
        str, typer.Option(help="constant, diurnal, spike, or the path of an access log (CLF or JSON lines, gz too).")
    ] = "diurnal",
    rate: Annotated[float, typer.Option(help="Requests a second, at most.")] = 40.0,
    low: Annotated[float, typer.Option(help="Requests a second, at least.")] = 2.0,
    duration_s: Annotated[float, typer.Option(help="How long requests come.")] = 5400.0,
    period_s: Annotated[float, typer.Option(help="When arrivals repeat; a spike lasts a tenth of it.")] = 1800.0,
    field: Annotated[str, typer.Option(help="The name of the time in JSON lines.")] = "",
    speed: Annotated[float, typer.Option(help="Replay an access log so many times as fast.")] = 1.0,
    batch_ms: Annotated[float, typer.Option(help="What any batch takes.")] = 80.0,
    row_ms: Annotated[float, typer.Option(help="What each row adds to it.")] = 20.0,
    start_s: Annotated[float, typer.Option(help="How long a replica takes to start.")] = 60.0,
    slo_ms: Annotated[float, typer.Option(help="A request that takes longer is missed.")] = 500.0,
    skip_s: Annotated[
        float | None, typer.Option(help="Do not count so long; by default one period of diurnal.")
    ] = None,
    policy: Annotated[list[str] | None, typer.Option(help="Only these; fixed is compared with in any case.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same numbers.")] = 0,
    plot: Annotated[bool, typer.Option("--plot", help="Draw arrivals and replicas with plain characters.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Replay arrivals against policies of scaling: what replicas cost, and how many requests miss their objective."""
    endpoint = load_spec(EndpointSpec, spec) if spec else None
    options: dict[str, Any] = {
        "trace": _trace(trace, rate, low, duration_s, period_s, field, speed),
        "service": {"batch_ms": batch_ms, "row_ms": row_ms, "start_s": start_s},
        "replicas": endpoint.replicas.model_dump(mode="json") if endpoint else _REPLICAS,
        "batching": endpoint.batching.model_dump(mode="json") if endpoint else {"max_rows": 8},
        "balancing": endpoint.balancing.model_dump(mode="json") if endpoint else "least_loaded",
        "policies": [_policy(name, endpoint, slo_ms, period_s, start_s) for name in policy or _asked(endpoint)],
        "slo_ms": slo_ms,
        "skip_s": skip_s if skip_s is not None else period_s if trace == "diurnal" and duration_s > period_s else 0.0,
        "seed": seed,
    }
    done = operate("serving.simulate", options, quiet=json_output)
    if json_output:
        print_json(done)
        return
    _print(SimulationReport.model_validate(done), plot)


_REPLICAS = {"min": 1, "max": 10, "target_ongoing_requests": 4, "upscale_delay_s": 10, "downscale_delay_s": 120}


def _trace(
    trace: str, rate: float, low: float, duration_s: float, period_s: float, field: str, speed: float
) -> dict[str, Any]:
    if trace == "constant":
        return {"kind": trace, "rate": rate, "duration_s": duration_s}
    if trace == "diurnal":
        return {"kind": trace, "rate": rate, "low": low, "period_s": period_s, "duration_s": duration_s}
    if trace == "spike":
        at_s = duration_s / 2
        return {
            "kind": trace, "rate": rate, "low": low, "at_s": at_s, "length_s": period_s / 10, "duration_s": duration_s
        }  # fmt: skip
    return {"kind": "file", "path": str(Path(trace).absolute()), "field": field, "speed": speed}


def _asked(endpoint: EndpointSpec | None) -> list[str]:
    own = [endpoint.replicas.policy.name] if endpoint else []
    return list(dict.fromkeys([*own, "queue", "latency", "forecast"]))


def _policy(name: str, endpoint: EndpointSpec | None, slo_ms: float, period_s: float, start_s: float) -> dict[str, Any]:
    """Return a policy: the endpoint's own if it is that, else with what the other options say."""
    if endpoint and endpoint.replicas.policy.name == name:
        return endpoint.replicas.policy.model_dump(mode="json")
    if name == "latency":
        return {"name": name, "objective_ms": slo_ms}
    if name == "forecast":
        bucket_s = period_s / SEASON_PARTS
        return ForecastPolicy(season_s=period_s, bucket_s=bucket_s, lead_s=start_s).model_dump(mode="json")
    if name == "schedule":
        raise RequestError("A schedule needs windows; give the specification of an endpoint that has them.")
    if name not in POLICIES:
        raise RequestError(f"There is no policy {name!r}; choose from {', '.join(POLICIES)}.")
    return {"name": name}


def _print(found: SimulationReport, plot: bool) -> None:
    if plot and found.policies:
        points = found.policies[0].points
        _draw("requests a second", [(point.at_s, point.requests_per_s) for point in points])
        for one in found.policies:
            _draw(f"replicas by {one.policy}", [(point.at_s, point.replicas) for point in one.points])
    title = f"{found.requests:,} requests in {found.duration_s:,.0f} s, objective {found.slo_ms:g} ms"
    print_table(title, _COLUMNS, [_row(one) for one in found.policies])


def _draw(name: str, line: list[tuple[float, float]]) -> None:
    whole = [(round(at_s), value) for at_s, value in line]
    console.print("\n".join(draw(name, "second", whole)), highlight=False, markup=False, soft_wrap=True)


def _row(one: SimulatedPolicy) -> tuple[str, ...]:
    share = 100 * one.missed / one.requests if one.requests else 0.0
    return (
        one.policy,
        f"{one.replica_s / 3600:.2f}",
        f"{one.mean_replicas:.2f}",
        str(one.most_replicas),
        str(one.changes),
        f"{one.requests:,}",
        f"{share:.2f} %" + (f" ({one.refused:,} refused)" if one.refused else ""),
        f"{one.p50_ms:,.0f} ms",
        f"{one.p99_ms:,.0f} ms",
    )
