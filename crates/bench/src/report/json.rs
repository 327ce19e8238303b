//! The figures under the names of vLLM's `bench serve`.

use super::Run;
use crate::environment::{Environment, rfc3339};
use crate::metrics::{Distribution, itls_ms};
use serde_json::{Map, Value, json};

/// One run. With `detailed`, the times of each request, too.
pub(crate) fn json(run: &Run, environment: &Environment, detailed: bool) -> Value {
    let metrics = &run.metrics;
    let tokens = (metrics.input_tokens + metrics.output_tokens) as f64;
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("date", json!(rfc3339(run.date)));
    put("command", json!(environment.command));
    put("version", json!(environment.version));
    put("machine", json!(environment.machine));
    put("endpoint_type", json!(run.dialect));
    put("model_id", json!(run.model_id));
    put("server", json!(run.software));
    put("dataset", json!(run.dataset));
    put("num_prompts", json!(run.ran.outcomes.len()));
    // JSON has no infinity; vLLM writes it so.
    put("request_rate", if run.rate.is_finite() { json!(run.rate) } else { json!("inf") });
    put("arrivals", json!(run.arrivals));
    put("max_concurrency", json!(run.concurrency_max));
    put("duration", json!(metrics.duration));
    put("completed", json!(metrics.completed));
    put("failed", json!(metrics.failed));
    put("failures", json!(run.failures));
    put("total_input_tokens", json!(metrics.input_tokens));
    put("total_cached_tokens", json!(metrics.cached_tokens));
    put("total_output_tokens", json!(metrics.output_tokens));
    put("completed_counted_by_server", json!(metrics.counted_by_server));
    put("request_throughput", json!(metrics.rate(metrics.completed as f64)));
    put("goodput", json!(run.slos));
    put("request_goodput", json!(metrics.good.map(|good| metrics.rate(good as f64))));
    put("output_throughput", json!(metrics.output_throughput()));
    put("total_token_throughput", json!(metrics.rate(tokens)));
    put("max_output_tokens_per_s", json!(metrics.output_tokens_per_s_max));
    put("max_concurrent_requests", json!(metrics.concurrency_max));
    let figures = [
        ("ttft", &metrics.ttft),
        ("tpot", &metrics.tpot),
        ("itl", &metrics.itl),
        ("e2el", &metrics.e2el),
        ("latency_per_token", &metrics.per_token),
    ];
    for (name, distribution) in figures {
        for (statistic, value) in statistics(distribution) {
            put(&format!("{statistic}_{name}_ms"), json!(value));
        }
    }
    if detailed {
        put_details(run, &mut put);
    }
    Value::Object(object)
}

fn statistics(of: &Distribution) -> [(&'static str, f64); 6] {
    [
        ("mean", of.mean()),
        ("median", of.median()),
        ("std", of.std()),
        ("p90", of.percentile(90.0)),
        ("p95", of.percentile(95.0)),
        ("p99", of.percentile(99.0)),
    ]
}

/// One entry for each request, in seconds, as vLLM has them.
fn put_details(run: &Run, put: &mut impl FnMut(&str, Value) -> Option<Value>) {
    let outcomes = &run.ran.outcomes;
    let ttfts: Vec<_> = outcomes.iter().map(|outcome| outcome.arrivals.first().map_or(0.0, |first| first.at)).collect();
    let itls: Vec<Vec<f64>> = outcomes.iter().map(|outcome| itls_ms(outcome).map(|ms| ms / 1e3).collect()).collect();
    put("start_times", json!(outcomes.iter().map(|outcome| outcome.start).collect::<Vec<_>>()));
    put("input_lens", json!(outcomes.iter().map(|outcome| outcome.counts.input_tokens).collect::<Vec<_>>()));
    put("output_lens", json!(outcomes.iter().map(|outcome| outcome.output_tokens).collect::<Vec<_>>()));
    put("ttfts", json!(ttfts));
    put("itls", json!(itls));
    put("e2els", json!(outcomes.iter().map(|outcome| outcome.latency).collect::<Vec<_>>()));
    put("errors", json!(outcomes.iter().map(|outcome| outcome.error.clone().unwrap_or_default()).collect::<Vec<_>>()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{environment, run};

    #[test]
    fn keys_are_those_of_vllm() {
        let object = json(&run(), &environment(), true);
        for key in [
            "duration",
            "completed",
            "failed",
            "total_input_tokens",
            "total_output_tokens",
            "request_throughput",
            "request_goodput",
            "output_throughput",
            "total_token_throughput",
            "max_output_tokens_per_s",
            "max_concurrent_requests",
            "request_rate",
            "max_concurrency",
            "num_prompts",
            "model_id",
            "endpoint_type",
            "input_lens",
            "output_lens",
            "ttfts",
            "itls",
            "errors",
            "start_times",
        ] {
            assert!(object.get(key).is_some(), "{key}");
        }
        for statistic in ["mean", "median", "std", "p99"] {
            for figure in ["ttft", "tpot", "itl", "e2el"] {
                assert!(object[format!("{statistic}_{figure}_ms")].is_f64(), "{statistic} {figure}");
            }
        }
        assert_eq!(object["date"], "2023-11-14T22:13:20Z");
        assert_eq!(object["machine"], json!({"cpu": "CPU <1>", "cores": 2, "memory_bytes": 3u64 << 30, "os": "Linux"}));
        assert_eq!((&object["command"], &object["version"]), (&json!("peregrine bench serve"), &json!("1.2.3")));
        assert_eq!(object["failures"], json!([{"count": 1, "reason": "gone"}]));
        assert_eq!(object["median_ttft_ms"], 375.0);
        assert_eq!(object["request_rate"], "inf");
        assert_eq!(object["ttfts"], json!([0.5, 0.25, 0.0]));
        assert_eq!(object["errors"], json!(["", "", "gone"]));
        assert!(json(&run(), &environment(), false).get("itls").is_none());
    }
}
