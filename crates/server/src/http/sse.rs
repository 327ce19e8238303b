//! Streams of events: server-sent events, or whatever a dialect makes of them.

use crate::{Error, TokenStream};
use api::TokenEvent;
use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};
use std::io;
use std::time::Duration;
use tokio::time::timeout;

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

/// A stream of which nothing has been sent. Its first token has come: an error before it is one of the whole request.
pub(crate) struct EventStream {
    tokens: TokenStream,
    events: Box<dyn Events>,
    first: Option<TokenEvent>,
    headers: HeaderMap,
    ended: bool,
}

/// Waits for the first token of a stream.
pub(crate) async fn event_stream(mut tokens: TokenStream, events: impl Events) -> Result<EventStream, Error> {
    let first = tokens.next().await?;
    Ok(EventStream { tokens, events: Box::new(events), first, headers: HeaderMap::new(), ended: false })
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
        let chunks = unfold(self, |mut stream| async move {
            let chunk = stream.chunk().await?;
            Some((Ok::<_, std::convert::Infallible>(chunk), stream))
        });
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

    /// Waits for the next token, and shows all that are there by then.
    async fn chunk(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut out = EventBuffer::default();
        let mut next = match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => match timeout(KEEP_ALIVE, self.tokens.next()).await {
                Ok(next) => next,
                Err(_) => {
                    self.events.keep_alive(&mut out);
                    return Some(out.into());
                }
            },
        };
        while let Ok(Some(event)) = next {
            self.events.token(&mut self.tokens, event, &mut out);
            next = self.tokens.try_next();
        }
        if let Err(error) = next {
            self.events.error(&error, &mut out);
            self.ended = true;
        } else if self.tokens.has_ended() {
            self.events.end(&mut self.tokens, &mut out);
            self.ended = true;
        }
        Some(out.into())
    }
}

/// The bytes of some events.
#[derive(Default)]
pub(crate) struct EventBuffer(Vec<u8>);

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
}
