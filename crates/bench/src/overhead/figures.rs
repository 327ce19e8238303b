//! What was measured, as JSON and as tables.

use crate::metrics::Distribution;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct OverheadFigures {
    /// The streams of each dialect, gRPC first, then of peers.
    pub streams: Vec<StreamFigures>,
    /// Microseconds of one plan and one commit, by running sequences.
    pub plan_commit_us: BTreeMap<usize, Distribution>,
    /// Requests over which memory was watched.
    pub requests: u32,
    /// Bytes that the process grew by, for each of them.
    pub bytes_per_request: f64,
    /// Resident bytes when a fifth of the requests was answered, and after all.
    pub resident_bytes: [u64; 2],
}

/// What many streams of one server brought at once.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamFigures {
    /// The dialect; of a peer, with its address.
    pub name: String,
    /// Tokens per second over all streams, one value a round.
    pub tokens_per_s: Distribution,
    /// Tokens in one message, on average: more than one where the reader lags.
    pub tokens_per_message: f64,
    /// Milliseconds from the sampling of a message's first token to its receipt, p50 and p99; `None` of peers, whose tokens do not
    /// tell.
    pub delay_ms: Option<[f64; 2]>,
    /// Microseconds of processor time for each token, of server, worker and load generator together; `None` of peers. Other work on the
    /// machine changes it little.
    pub cpu_us_per_token: Option<f64>,
    /// Nanoseconds that the load generator takes from an event's bytes to its tokens; `None` for gRPC.
    pub client_ns_per_event: Option<f64>,
}

impl StreamFigures {
    /// Its median tokens/s over those of another.
    #[must_use]
    pub fn ratio_to(&self, other: &Self) -> f64 {
        self.tokens_per_s.median() / other.tokens_per_s.median()
    }

    fn json(&self, grpc: &Self) -> Value {
        let [p50, p99] = self.delay_ms.map_or([None; 2], |delays| delays.map(Some));
        json!({
            "tokens_per_s": self.tokens_per_s.median(),
            "tokens_per_s_rounds": self.tokens_per_s.values(),
            "ratio_to_grpc": self.ratio_to(grpc),
            "tokens_per_message": self.tokens_per_message,
            "p50_delay_ms": p50,
            "p99_delay_ms": p99,
            "cpu_us_per_token": self.cpu_us_per_token,
            "client_ns_per_event": self.client_ns_per_event,
        })
    }

    fn row(&self, grpc: &Self) -> String {
        let dash = || "–".to_owned();
        let rounds = self.tokens_per_s.values();
        format!(
            "| {} | {:.0} ({:.0} to {:.0}) | {:.2} | {:.2} | {} | {} | {} |\n",
            self.name,
            self.tokens_per_s.median(),
            rounds.first().unwrap_or(&0.0),
            rounds.last().unwrap_or(&0.0),
            self.ratio_to(grpc),
            self.tokens_per_message,
            self.delay_ms.map_or_else(dash, |[p50, p99]| format!("{p50:.1} / {p99:.1}")),
            self.cpu_us_per_token.map_or_else(dash, |us| format!("{us:.1}")),
            self.client_ns_per_event.map_or_else(dash, |ns| format!("{ns:.0}")),
        )
    }
}

impl OverheadFigures {
    /// As one object.
    #[must_use]
    pub fn json(&self) -> Value {
        let medians = self.plan_commit_us.iter().map(|(running, us)| (running.to_string(), json!(us.median())));
        let streams = self.streams.iter().map(|of| (of.name.clone(), of.json(&self.streams[0])));
        json!({
            "streams": streams.collect::<Map<_, _>>(),
            "plan_commit_us": medians.collect::<Map<_, _>>(),
            "requests": self.requests,
            "bytes_per_request": self.bytes_per_request,
            "resident_bytes": self.resident_bytes,
        })
    }

    /// As tables.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| streams | tokens/s, median (range) | to gRPC | tokens a message | delay p50 / p99, ms | CPU, µs a token | \
             client, ns an event |\n|---|---|---|---|---|---|---|\n",
        );
        for of in &self.streams {
            text.push_str(&of.row(&self.streams[0]));
        }
        let [before, after] = self.resident_bytes.map(|bytes| bytes as f64 / f64::from(1 << 20));
        let _ = write!(
            text,
            "\n{} requests: resident memory from {before:.1} to {after:.1} MiB, {:.1} bytes a request.\n\n\
             | running sequences | plan + commit p50 / p90 / p99, µs | ns a sequence |\n|---|---|---|\n",
            self.requests, self.bytes_per_request,
        );
        for (running, us) in &self.plan_commit_us {
            let [p50, p90, p99] = [50.0, 90.0, 99.0].map(|percent| us.percentile(percent));
            let _ =
                writeln!(text, "| {running} | {p50:.1} / {p90:.1} / {p99:.1} | {:.0} |", p50 * 1e3 / *running as f64);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_their_keys() {
        let grpc = StreamFigures {
            name: "grpc".to_owned(),
            tokens_per_s: Distribution::of(vec![3e5, 1e5, 2e5]),
            tokens_per_message: 2.0,
            delay_ms: Some([1.0, 9.5]),
            cpu_us_per_token: Some(6.25),
            client_ns_per_event: None,
        };
        let peer = StreamFigures {
            name: "openai http://h".to_owned(),
            tokens_per_s: Distribution::of(vec![1e5]),
            delay_ms: None,
            cpu_us_per_token: None,
            client_ns_per_event: Some(600.0),
            ..grpc
        };
        let figures = OverheadFigures {
            streams: vec![grpc, peer],
            plan_commit_us: [(1, Distribution::of(vec![1.0])), (256, Distribution::of(vec![30.0, 10.0, 20.0]))].into(),
            requests: 10,
            bytes_per_request: -0.5,
            resident_bytes: [1 << 20, 1 << 20],
        };
        let object = figures.json();
        let (grpc, peer) = (&object["streams"]["grpc"], &object["streams"]["openai http://h"]);
        assert_eq!((&grpc["tokens_per_s"], &grpc["p99_delay_ms"]), (&json!(2e5), &json!(9.5)));
        assert_eq!((&peer["ratio_to_grpc"], &peer["p99_delay_ms"]), (&json!(0.5), &Value::Null));
        assert_eq!(object["plan_commit_us"], json!({"1": 1.0, "256": 20.0}));
        assert_eq!(object["bytes_per_request"], -0.5);
        let text = figures.markdown();
        assert!(text.contains("| grpc | 200000 (100000 to 300000) | 1.00 | 2.00 | 1.0 / 9.5 | 6.2 | – |"), "{text}");
        assert!(text.contains("| openai http://h | 100000 (100000 to 100000) | 0.50 | 2.00 | – | – | 600 |"), "{text}");
        assert!(text.contains("| 256 | 20.0 / 28.0 / 29.8 | 78 |"), "{text}");
    }
}
