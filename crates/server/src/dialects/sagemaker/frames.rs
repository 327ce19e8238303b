//! AWS's event-stream frames (`application/vnd.amazon.eventstream`), in which the runtime API answers a stream.

use crate::dialects::tgi;
use crate::http::{EventBuffer, Events};
use crate::{Error, TokenStream};
use api::TokenEvent;
use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use axum::body::Bytes;
use serde_json::json;

/// The type of a stream of frames.
pub(super) const CONTENT_TYPE: &str = "application/vnd.amazon.eventstream";

/// Another dialect's events: those of a token in one frame.
pub(super) struct Framed(pub(super) Box<dyn Events>);

impl Events for Framed {
    fn content_type(&self) -> &'static str {
        CONTENT_TYPE
    }

    fn token(&mut self, stream: &mut TokenStream, event: TokenEvent, out: &mut EventBuffer) {
        in_a_frame(out, |events| self.0.token(stream, event, events));
    }

    fn end(&mut self, stream: &mut TokenStream, out: &mut EventBuffer) {
        in_a_frame(out, |events| self.0.end(stream, events));
    }

    fn error(&mut self, error: &Error, out: &mut EventBuffer) {
        out.raw(&exception(error));
    }

    /// A part without bytes: a client that joins parts does not notice it, whatever it reads them as.
    fn keep_alive(&mut self, out: &mut EventBuffer) {
        out.raw(&payload_part(Bytes::new()));
    }
}

fn in_a_frame(out: &mut EventBuffer, write: impl FnOnce(&mut EventBuffer)) {
    let mut events = EventBuffer::default();
    write(&mut events);
    let events = Bytes::from(events);
    if !events.is_empty() {
        out.raw(&payload_part(events));
    }
}

/// A frame with a part of the answer.
pub(super) fn payload_part(bytes: Bytes) -> Vec<u8> {
    let headers =
        [(":event-type", "PayloadPart"), (":content-type", "application/octet-stream"), (":message-type", "event")];
    frame(headers, bytes)
}

/// A frame that ends a stream with an error. Clients take its text from `Message`.
fn exception(error: &Error) -> Vec<u8> {
    let message = tgi::ErrorBody::from(error).error;
    let (kind, body) = match error {
        Error::Incomplete => ("InternalStreamFailure", json!({ "Message": message })),
        _ => ("ModelStreamError", json!({ "Message": message, "ErrorCode": "StreamBroken" })),
    };
    let headers = [(":exception-type", kind), (":content-type", "application/json"), (":message-type", "exception")];
    frame(headers, body.to_string().into())
}

fn frame(headers: [(&'static str, &'static str); 3], payload: Bytes) -> Vec<u8> {
    let headers = headers.map(|(name, value)| Header::new(name, HeaderValue::String(value.into())));
    let message = Message::new_from_parts(headers.to_vec(), payload);
    let mut bytes = Vec::new();
    write_message_to(&message, &mut bytes).expect("a frame holds 4 GiB, and its headers are short");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_smithy_eventstream::frame::read_message_from;
    use serde_json::Value;
    use std::time::Duration;

    fn read(frame: Vec<u8>) -> (Vec<(String, String)>, Bytes) {
        let message = read_message_from(Bytes::from(frame)).expect("a frame");
        let header = |header: &Header| {
            let value = header.value().as_string().expect("a text");
            (header.name().as_str().to_owned(), value.as_str().to_owned())
        };
        (message.headers().iter().map(header).collect(), message.payload().clone())
    }

    #[test]
    fn errors_are_exceptions_that_clients_know() {
        for (error, kind, message) in [
            (Error::Incomplete, "InternalStreamFailure", "Incomplete generation"),
            (
                Error::Generation { reason: "é".to_owned() },
                "ModelStreamError",
                "Request failed during generation: Server error: é",
            ),
            (
                Error::Stalled { limit: Duration::from_secs(3) },
                "ModelStreamError",
                "nothing of the stream was read for 3 s",
            ),
        ] {
            let (headers, payload) = read(exception(&error));
            for (name, value) in [(":message-type", "exception"), (":exception-type", kind)] {
                assert!(headers.contains(&(name.to_owned(), value.to_owned())), "{headers:?}");
            }
            let body: Value = serde_json::from_slice(&payload).expect("JSON");
            assert!(body["Message"].as_str().is_some_and(|text| text.starts_with(message)), "{body}");
        }
    }

    #[test]
    fn a_sign_of_life_is_a_part_without_bytes() {
        let (headers, payload) = read(payload_part(Bytes::new()));
        assert!(headers.contains(&(":event-type".to_owned(), "PayloadPart".to_owned())), "{headers:?}");
        assert!(payload.is_empty());
    }
}
