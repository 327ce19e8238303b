//! What this load generator itself spends on an event.

use super::dialect::{Answers, over_http};
use super::{Answer, Record, read};
use crate::target::{Dialect, TargetError};
use bytes::Bytes;
use futures_util::stream;
use std::time::Instant;

/// Few enough that most passes are not interrupted by other work.
const EVENTS: usize = 1_000;
const PASSES: usize = 100;

/// Nanoseconds from the bytes of an event to its tokens, without the connection under them: the least of several passes. `None`
/// for a dialect without server-sent events.
pub(crate) async fn ns_per_event(dialect: Dialect) -> Option<Result<f64, TargetError>> {
    let answers = over_http(dialect)?.answers();
    let mut least = f64::INFINITY;
    for _ in 0..PASSES {
        match pass(answers).await {
            Ok(ns) => least = least.min(ns),
            Err(error) => return Some(Err(error)),
        }
    }
    Some(Ok(least))
}

async fn pass(answers: &'static dyn Answers) -> Result<f64, TargetError> {
    let (event, end) = if answers.has_done() { (CHUNK, CHUNKS_END) } else { (TOKEN, TOKENS_END) };
    let events = std::iter::repeat_n(Bytes::from_static(event.as_bytes()), EVENTS);
    let bytes = events.chain([Bytes::from_static(end.as_bytes())]).map(Ok);
    let (mut answer, mut record) = (Answer::new(answers), Record::new(None));
    let start = Instant::now();
    read(stream::iter(bytes), &mut answer, &mut record).await?;
    answer.end()?;
    Ok(start.elapsed().as_nanos() as f64 / EVENTS as f64)
}

const TOKEN: &str = "data: {\"index\":17,\"token\":{\"id\":1234,\"text\":\" mountain\",\"logprob\":-1.0,\"special\":false},\
                     \"generated_text\":null,\"details\":null}\n\n";
const TOKENS_END: &str = "data: {\"token\":{\"id\":1234,\"text\":\" mountain\",\"logprob\":-1.0,\"special\":false},\
                          \"generated_text\":\" mountain\",\"details\":null}\n\n";
const CHUNK: &str = "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\
                     \"model\":\"falcon-demo\",\"system_fingerprint\":\"peregrine\",\"choices\":[{\"index\":0,\
                     \"delta\":{\"content\":\" mountain\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
const CHUNKS_END: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_dialect_with_events_has_a_cost() {
        for dialect in Dialect::ALL {
            let cost = ns_per_event(dialect).await.map(|cost| cost.expect("the events are well formed"));
            assert_eq!(cost.is_some_and(|ns| ns > 0.0), dialect != Dialect::Grpc, "{dialect:?}");
        }
    }
}
