"""Records of access and signals, each with other values than its defaults."""

from __future__ import annotations

from lightmill.records import access, endpoints, keys, logs, signals
from lightmill.records.base import Record
from lightmill.records.masking import MaskingPolicy

LIMITS = access.LimitsSpec(requests_per_s=2.5, burst=7, concurrency=3)
ISSUER = access.JwtIssuer(
    issuer="https://login.example/realm",
    audience="lightmill",
    jwks="https://login.example/keys",
    algorithms=("ES256", "EdDSA"),
    leeway_s=5,
    scope_claim="roles",
    scopes={"ml-admin": ("admin",), "ml": ("predict:digits", "predict:*")},
    limits=LIMITS,
)
TRUSTED = access.TrustedIssuer(issuer=ISSUER, jwks='{"keys": []}')
KEY = endpoints.ApiKey(
    id="00112233",
    name="n",
    secret_sha256="00",
    scopes=("predict:digits", "metrics"),
    expires="2030-01-31T12:00:00+01:00",
    old_sha256="11",
    old_until="2026-01-01",
    limits=LIMITS,
    last_used="2026-01-01T00:00:00.000Z",
)
POLICY = MaskingPolicy.model_validate(
    {"name": "staff", "version": 2, "rules": [{"detectors": ["all"], "action": "redact"}]}
)
DISTRIBUTION = signals.Distribution(bounds=(0.1, 1.0), counts=(1, 0, 2), total=7.25)
ACCESS: list[Record] = [
    LIMITS,
    access.EndpointLimits(requests_per_s=1, body_bytes=2048),
    access.AccessSpec(cors_origins=("https://shop.example", "http://localhost:3000")),
    ISSUER,
    access.IssuersSpec(issuers=(ISSUER,)),
    TRUSTED,
    KEY,
    keys.KeyRequest(name="ci", scopes=("predict:a",), expires="2030-01-01", limits=LIMITS),
    keys.RotateRequest(overlap_s=60),
    keys.KeySummary.of(KEY, "2025-01-01"),
    keys.MintedKey(key="lm_x", summary=keys.KeySummary.of(KEY, "2027-01-01")),
    keys.AccessSet(keys=(KEY,), issuers=(TRUSTED,), replicas={"digits": 2}),
    logs.PredictionLogSpec(sample=0.5, masking="staff@2", part_rows=5, part_s=2, buffer_bytes=1 << 20),
    logs.LogSpec(access=0.5),
    DISTRIBUTION,
    signals.SignalsConfig(masking=POLICY, trace_url="http://localhost:4318/v1/traces", trace_ratio=0.5),
    signals.ReplicaSignals(
        endpoint="e",
        version="3",
        replica="r",
        requests=(("oip", 200, 4),),
        errors={"RequestError": 1},
        seconds={"total": DISTRIBUTION},
        batches=DISTRIBUTION,
        rows=9,
        tokens=1,
        running=2,
        dropped={"access": 1},
        seen={"00112233": "2026-01-01T00:00:00.000Z"},
        at=1.5,
    ),
]
