//! AWS's event-stream frames (`application/vnd.amazon.eventstream`), as SageMaker's runtime API sends them.

use super::super::TargetError;
use super::super::error::shortened;
use super::dialect::error_in;
use aws_smithy_eventstream::frame::{DecodedFrame, MessageFrameDecoder};
use aws_smithy_types::event_stream::Message;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream, StreamExt};

/// AWS's own limit of a payload is below.
const FRAME_BYTES_MAX: usize = 32 << 20;

/// What `body` holds in frames of the type `PayloadPart`, one after the other. Frames of other types are skipped, as AWS's own
/// clients do; exceptions are errors.
pub(super) fn payloads<S>(body: S) -> impl Stream<Item = Result<Bytes, TargetError>>
where
    S: Stream<Item = Result<Bytes, TargetError>> + Unpin,
{
    let frames = Frames { body, decoder: MessageFrameDecoder::new(), buffer: BytesMut::new(), is_within: false };
    stream::try_unfold(frames, |mut frames| async { Ok(frames.next().await?.map(|payload| (payload, frames))) })
}

struct Frames<S> {
    body: S,
    decoder: MessageFrameDecoder,
    buffer: BytesMut,
    /// A frame has begun, of which the decoder may have taken the first bytes.
    is_within: bool,
}

impl<S: Stream<Item = Result<Bytes, TargetError>> + Unpin> Frames<S> {
    async fn next(&mut self) -> Result<Option<Bytes>, TargetError> {
        loop {
            let decoded = self.decoder.decode_frame(&mut self.buffer);
            match decoded.map_err(|error| TargetError::Unexpected(format!("a frame: {error}")))? {
                DecodedFrame::Complete(message) => {
                    self.is_within = !self.buffer.is_empty();
                    if let Some(payload) = payload(&message)? {
                        return Ok(Some(payload));
                    }
                }
                DecodedFrame::Incomplete if self.buffer.len() > FRAME_BYTES_MAX => {
                    return Err(TargetError::Unexpected(format!("a frame of more than {FRAME_BYTES_MAX} bytes")));
                }
                DecodedFrame::Incomplete => match self.body.next().await {
                    Some(bytes) => {
                        self.buffer.extend_from_slice(&bytes?);
                        self.is_within |= !self.buffer.is_empty();
                    }
                    None if self.is_within => return Err(TargetError::incomplete("the rest of a frame")),
                    None => return Ok(None),
                },
            }
        }
    }
}

/// What a frame adds to the answer.
fn payload(message: &Message) -> Result<Option<Bytes>, TargetError> {
    let header = |name: &str| {
        let found = message.headers().iter().find(|header| header.name().as_str() == name);
        found.and_then(|header| header.value().as_string().ok()).map(|value| value.as_str())
    };
    let failed = |kind: Option<&str>, said: &str| {
        Err(TargetError::Reported(format!("{}: {}", kind.unwrap_or("an exception"), shortened(said))))
    };
    match header(":message-type") {
        Some("exception") => {
            let body = String::from_utf8_lossy(message.payload());
            let said = serde_json::from_str(&body).ok().and_then(|body| error_in(&body));
            failed(header(":exception-type"), said.as_deref().unwrap_or(&body))
        }
        Some("error") => failed(header(":error-code"), header(":error-message").unwrap_or_default()),
        _ if header(":event-type") == Some("PayloadPart") => Ok(Some(message.payload().clone())),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_smithy_eventstream::frame::write_message_to;
    use aws_smithy_types::event_stream::{Header, HeaderValue};

    fn frame(headers: &[(&'static str, &'static str)], payload: &'static str) -> Vec<u8> {
        let header = |&(name, value)| Header::new(name, HeaderValue::String(String::from(value).into()));
        let message = Message::new_from_parts(headers.iter().map(header).collect(), payload.as_bytes());
        let mut bytes = Vec::new();
        write_message_to(&message, &mut bytes).expect("a short message");
        bytes
    }

    fn part(payload: &'static str) -> Vec<u8> {
        frame(&[(":event-type", "PayloadPart"), (":message-type", "event")], payload)
    }

    /// The payloads in these bytes, which come in pieces of `piece` bytes.
    async fn decoded(bytes: &[u8], piece: usize) -> Result<String, String> {
        let pieces: Vec<_> = bytes.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let mut payloads = std::pin::pin!(payloads(stream::iter(pieces)));
        let mut text = String::new();
        while let Some(payload) = payloads.next().await {
            text.push_str(std::str::from_utf8(&payload.map_err(|error| error.to_string())?).expect("UTF-8"));
        }
        Ok(text)
    }

    #[tokio::test]
    async fn payloads_are_joined_however_frames_are_split() {
        let skipped = frame(&[(":event-type", "Other"), (":message-type", "event")], "x");
        let bytes = [part("a"), skipped, part(""), part("bc")].concat();
        for piece in 1..=bytes.len() {
            assert_eq!(decoded(&bytes, piece).await.as_deref(), Ok("abc"), "{piece} bytes at a time");
        }
        assert_eq!(decoded(&[], 1).await.as_deref(), Ok(""));
    }

    #[tokio::test]
    async fn every_broken_frame_is_an_error() {
        let whole = [part("a"), part("bc")].concat();
        for length in 1..whole.len() {
            let is_between = length == part("a").len();
            let expected =
                if is_between { Ok("a") } else { Err("incomplete answer: the rest of a frame is missing".to_owned()) };
            assert_eq!(
                decoded(&whole[..length], 7).await.as_deref(),
                expected.as_ref().map(|text| &**text),
                "{length}"
            );
        }
        for index in 0..part("bc").len() {
            let mut broken = part("bc");
            broken[index] ^= 0x40;
            let error = decoded(&broken, 7).await.expect_err("a bit is wrong");
            // A length that is too large waits for the rest.
            assert!(
                error.starts_with("unexpected answer: a frame: ") || error.ends_with("is missing"),
                "{index}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn exceptions_are_errors() {
        let exception = [(":message-type", "exception"), (":exception-type", "ModelStreamError")];
        for (headers, payload, expected) in [
            (&exception[..], r#"{"Message": "gone"}"#, "ModelStreamError: gone"),
            (&exception[..], "gone", "ModelStreamError: gone"),
            (&exception[..1], "{}", "an exception: {}"),
            (
                &[(":message-type", "error"), (":error-code", "Gone"), (":error-message", "it is gone")],
                "",
                "Gone: it is gone",
            ),
        ] {
            let error = decoded(&frame(headers, payload), 9).await.expect_err("an exception");
            assert_eq!(error, format!("error in the answer: {expected}"));
        }
    }
}
