"""The fields of KEDA's resources that deploy/k8s uses, written down from its reference (2.17).

Anything else is refused, so that a misspelt field is noticed; the template of a ScaledJob is left
to the schema of a Kubernetes Job.
"""

from typing import Any

STRING = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object of these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


TRIGGER = closed(
    ["type", "metadata"],
    type={"const": "metrics-api"},
    name={"type": "string", "pattern": "^[a-z]+(-[0-9]+)?$"},
    metadata=closed(
        ["url", "valueLocation", "targetValue"],
        url={"type": "string", "pattern": "^http://[a-z-]+[.][a-z-]+[.]svc:[0-9]+/metrics$"},
        format={"enum": ["json", "xml", "yaml", "prometheus"]},
        valueLocation=STRING,
        targetValue={"type": "string", "pattern": "^[0-9]+$"},
        authMode={"enum": ["apiKey", "basic", "tls", "bearer"]},
    ),
    authenticationRef=closed(["name"], name=STRING),
)
SCALED_JOB = closed(
    ["jobTargetRef", "triggers"],
    pollingInterval=COUNT,
    minReplicaCount=COUNT,
    maxReplicaCount=COUNT,
    successfulJobsHistoryLimit=COUNT,
    failedJobsHistoryLimit=COUNT,
    rollout=closed(
        ["strategy"],
        strategy={"enum": ["default", "gradual"]},
        propagationPolicy={"enum": ["background", "foreground"]},
    ),
    scalingStrategy=closed(
        ["strategy"],
        strategy={"enum": ["default", "custom", "accurate", "eager"]},
        multipleScalersCalculation={"enum": ["max", "min", "avg", "sum"]},
    ),
    triggers={"type": "array", "items": TRIGGER, "minItems": 1},
    jobTargetRef={"type": "object"},
)
SCALED_OBJECT = closed(
    ["scaleTargetRef", "triggers"],
    scaleTargetRef=closed(["name"], name=STRING),
    pollingInterval=COUNT,
    minReplicaCount=COUNT,
    maxReplicaCount=COUNT,
    fallback=closed(
        ["failureThreshold", "replicas"],
        failureThreshold=COUNT,
        replicas=COUNT,
        behavior={
            "enum": [
                "static",
                "currentReplicas",
                "currentReplicasIfHigher",
                "currentReplicasIfLower",
            ]
        },
    ),
    advanced=closed(
        [],
        horizontalPodAutoscalerConfig=closed(["behavior"], behavior={"type": "object"}),
        scalingModifiers=closed(["formula", "target"], formula=STRING, target=STRING),
    ),
    triggers={"type": "array", "items": TRIGGER, "minItems": 1},
)
TRIGGER_AUTHENTICATION = closed(
    ["secretTargetRef"],
    secretTargetRef={
        "type": "array",
        "items": closed(["parameter", "name", "key"], parameter=STRING, name=STRING, key=STRING),
    },
)
SPECS = {
    "ScaledJob": SCALED_JOB,
    "ScaledObject": SCALED_OBJECT,
    "TriggerAuthentication": TRIGGER_AUTHENTICATION,
}
