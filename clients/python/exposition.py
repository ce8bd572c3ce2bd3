"""Reads metrics from standard input with the parser of Prometheus' own client, and checks what it lets pass.

Prints the families with their types and samples as JSON.
"""

import collections
import json
import re
import sys

from prometheus_client.parser import text_string_to_metric_families

text = sys.stdin.read()
# Newer than the format: the parser would read it as a comment.
assert "# EOF" not in text
for kind in ("HELP", "TYPE"):
    named = re.findall(rf"^# {kind} (\S+)", text, re.MULTILINE)
    twice = [name for name, count in collections.Counter(named).items() if count > 1]
    assert not twice, f"{kind} twice: {twice}"

families = {}
seen = set()
for family in text_string_to_metric_families(text):
    assert family.type in ("counter", "gauge", "histogram"), (family.name, family.type)
    assert family.documentation, family.name
    # The parser takes the suffix off that counters have in the newer format.
    typed = re.search(rf"^# TYPE ({re.escape(family.name)}(?:_total)?) (\w+)$", text, re.MULTILINE)
    assert typed and typed.group(2) == family.type, family.name
    assert typed.group(1) not in families, family.name
    samples = []
    for sample in family.samples:
        key = (sample.name, tuple(sorted(sample.labels.items())))
        assert key not in seen, f"twice: {key}"
        seen.add(key)
        assert {"host", "id", "region"} <= sample.labels.keys(), key
        assert sample.value >= 0, key
        # The parser names the samples of counters as the newer format does.
        name = typed.group(1) if family.type == "counter" else sample.name
        samples.append([name, sample.labels, sample.value])
    assert samples, family.name
    families[typed.group(1)] = {"type": family.type, "samples": samples}

    if family.type == "histogram":
        series = collections.defaultdict(dict)
        for name, labels, value in samples:
            rest = tuple(sorted(pair for pair in labels.items() if pair[0] != "le"))
            series[rest][(name.removeprefix(family.name), labels.get("le"))] = value
        for rest, values in series.items():
            buckets = [(float(le), value) for (_, le), value in values.items() if le is not None]
            assert buckets == sorted(buckets), (family.name, rest)
            counts = [value for _, value in buckets]
            assert counts == sorted(counts), (family.name, rest)
            assert counts[-1] == values[("_count", None)], (family.name, rest)
            assert ("_sum", None) in values, (family.name, rest)

print(json.dumps(families))
