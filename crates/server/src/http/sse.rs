//! Streams of events: server-sent events, or whatever a dialect makes of them.

use crate::{Error, TokenStream};
use api::TokenEvent;
use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use axum::response::{IntoResponse, Response};
use futures_util::stream::Stream;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, timeout};

/// How often a stream without a token says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How a dialect shows a stream.
pub(crate) trait Events: Send + 'static {
    /// The type of the stream.
    fn content_type(&self) -> &'static str {
        "text/event-stream"
    }

    /// Shows a token.
    fn token(&mut self, stream: &mut TokenStream, event: TokenEvent, out: &mut EventBuffer);

    /// Shows that all tokens have come.
    fn end(&mut self, _stream: &mut TokenStream, _out: &mut EventBuffer) {}

    /// Shows that the stream has failed. Nothing follows.
    fn error(&mut self, error: &Error, out: &mut EventBuffer);

    /// Shows that the stream is alive.
    fn keep_alive(&mut self, out: &mut EventBuffer) {
        out.comment();
    }
}

/// A stream of which nothing has been sent.
pub(crate) struct EventStream {
    tokens: TokenStream,
    events: Box<dyn Events>,
    first: First,
    headers: HeaderMap,
}

/// With what a stream begins.
enum First {
    /// Its first token.
    Token(TokenEvent),
    /// A sign of life.
    KeepAlive,
    /// It has begun, and goes on with what comes.
    Shown,
}

/// Waits for the first token of a stream: an error before it is one of the whole request. Where none comes for long, the stream
/// begins without.
pub(crate) async fn event_stream(mut tokens: TokenStream, events: impl Events) -> Result<EventStream, Error> {
    let first = match timeout(KEEP_ALIVE, tokens.next()).await {
        Ok(first) => first?.map_or(First::Shown, First::Token),
        Err(_) => First::KeepAlive,
    };
    Ok(EventStream { tokens, events: Box::new(events), first, headers: HeaderMap::new() })
}

impl IntoResponse for EventStream {
    fn into_response(mut self) -> Response {
        let headers = [
            (CONTENT_TYPE, self.events.content_type()),
            (CACHE_CONTROL, "no-cache"),
            // Proxies hold back what they could join.
            (HeaderName::from_static("x-accel-buffering"), "no"),
        ];
        let own = std::mem::take(&mut self.headers);
        let keep_alive = Box::pin(tokio::time::sleep(KEEP_ALIVE));
        let chunks = Chunks { stream: self, keep_alive, ended: false };
        let mut response = (headers, Body::from_stream(chunks)).into_response();
        response.headers_mut().extend(own);
        response
    }
}

impl EventStream {
    /// The stream, shown another way.
    pub(crate) fn wrapped<E: Events>(self, wrap: impl FnOnce(Box<dyn Events>) -> E) -> Self {
        Self { events: Box::new(wrap(self.events)), ..self }
    }

    /// The type of the stream.
    pub(crate) fn content_type(&self) -> &'static str {
        self.events.content_type()
    }

    /// The stream, with headers of its own.
    pub(crate) fn with_headers(self, headers: HeaderMap) -> Self {
        Self { headers, ..self }
    }

    /// Shows `next`, and all tokens that are there by now. Says whether the stream has ended.
    fn show(&mut self, mut next: Result<Option<TokenEvent>, Error>, out: &mut EventBuffer) -> bool {
        while let Ok(Some(event)) = next {
            self.events.token(&mut self.tokens, event, out);
            next = self.tokens.try_next();
        }
        if let Err(error) = next {
            self.events.error(&error, out);
            return true;
        }
        if self.tokens.has_ended() {
            self.events.end(&mut self.tokens, out);
        }
        self.tokens.has_ended()
    }
}

/// The body of a stream: what is written at once.
struct Chunks {
    stream: EventStream,
    /// Until the stream has to say that it is alive. It is kept, as making one costs more than a token.
    keep_alive: Pin<Box<Sleep>>,
    ended: bool,
}

impl Stream for Chunks {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let mut out = EventBuffer::default();
        match std::mem::replace(&mut this.stream.first, First::Shown) {
            First::Token(first) => this.ended = this.stream.show(Ok(Some(first)), &mut out),
            First::KeepAlive => this.stream.events.keep_alive(&mut out),
            First::Shown => match this.stream.tokens.poll_next(cx) {
                Poll::Ready(next) => this.ended = this.stream.show(next, &mut out),
                Poll::Pending => {
                    ready!(this.keep_alive.as_mut().poll(cx));
                    this.stream.events.keep_alive(&mut out);
                }
            },
        }
        this.keep_alive.as_mut().reset(Instant::now() + KEEP_ALIVE);
        Poll::Ready(Some(Ok(out.into())))
    }
}

/// Room for an event or two.
const EVENT_BYTES: usize = 512;

/// The bytes of some events.
pub(crate) struct EventBuffer(Vec<u8>);

impl Default for EventBuffer {
    fn default() -> Self {
        Self(Vec::with_capacity(EVENT_BYTES))
    }
}

impl From<EventBuffer> for Bytes {
    fn from(buffer: EventBuffer) -> Self {
        buffer.0.into()
    }
}

impl EventBuffer {
    /// An event with this as JSON.
    pub(crate) fn data(&mut self, value: &impl Serialize) {
        // Some clients need the space.
        self.raw(b"data: ");
        write_json(&mut self.0, value);
        self.raw(b"\n\n");
    }

    /// An event with an object as JSON, of which `head` is the beginning. `rest` must have a field.
    pub(crate) fn data_after(&mut self, head: &JsonHead, rest: &impl Serialize) {
        self.raw(b"data: ");
        self.raw(&head.0);
        let join = self.0.len();
        write_json(&mut self.0, rest);
        // In place of its opening brace.
        self.0[join] = b',';
        self.raw(b"\n\n");
    }

    /// An event that clients know as an error.
    pub(crate) fn error(&mut self, value: &impl Serialize) {
        self.raw(b"event: error\n");
        self.data(value);
    }

    /// Bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A comment, which every reader skips. It is a block of its own, as some drop the event that follows one directly.
    fn comment(&mut self) {
        self.raw(b":\n\n");
    }
}

/// The fields with which every event of a stream begins, as JSON that is written once.
pub(crate) struct JsonHead(Vec<u8>);

impl JsonHead {
    /// Of an object with at least one field.
    pub(crate) fn new(object: &impl Serialize) -> Self {
        let mut json = Vec::new();
        write_json(&mut json, object);
        // The closing brace.
        json.pop();
        Self(json)
    }
}

/// Writes JSON in which no reader of lines finds one that is none: many also break them at U+0085, U+2028 and U+2029.
fn write_json(out: &mut Vec<u8>, value: &impl Serialize) {
    let mut serializer = Serializer::with_formatter(out, OneLine(CompactFormatter));
    value.serialize(&mut serializer).expect("answers have string keys, and memory takes all that is written");
}

struct OneLine(CompactFormatter);

impl Formatter for OneLine {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.is_ascii() {
            return writer.write_all(fragment.as_bytes());
        }
        let mut rest = fragment;
        while let Some(at) = rest.find(['\u{85}', '\u{2028}', '\u{2029}']) {
            let found = rest[at..].chars().next().expect("one was found");
            write!(writer, "{}\\u{:04x}", &rest[..at], found as u32)?;
            rest = &rest[at + found.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn events_are_lines_that_every_reader_finds() {
        let text = "a\u{85}b\u{2028}\u{2029}é\r\n\"\\🦅\u{0}";
        let mut buffer = EventBuffer::default();
        buffer.data(&json!({ "text": text }));
        buffer.comment();
        buffer.error(&json!({ "error": "no" }));
        let written = String::from_utf8(buffer.0).expect("JSON is UTF-8");
        let blocks: Vec<&str> = written.split_terminator("\n\n").collect();
        assert_eq!(blocks[1..], [":", "event: error\ndata: {\"error\":\"no\"}"]);
        assert!(!written.contains(['\r', '\u{85}', '\u{2028}', '\u{2029}']), "{written:?}");
        let event: Value = serde_json::from_str(blocks[0].strip_prefix("data: ").expect("data")).expect("JSON");
        assert_eq!(event["text"], text);
    }

    #[test]
    fn a_head_and_its_rest_are_one_object() {
        let mut buffer = EventBuffer::default();
        buffer.data_after(&JsonHead::new(&json!({ "id": "}", "n": 1 })), &json!({ "choices": [{}], "usage": null }));
        assert_eq!(buffer.0, b"data: {\"id\":\"}\",\"n\":1,\"choices\":[{}],\"usage\":null}\n\n");
    }
}
