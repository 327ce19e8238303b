//! What a request may bring with it: headers and a body within limits.

use crate::limits::{BODY_TIMEOUT, HEADER_BYTES_MAX, LARGE_BODIES_MAX, LARGE_BODY_WAIT, SMALL_BODY_BYTES};
use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::HeaderMap;
use futures_util::stream::{StreamExt, try_unfold};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

/// How much of a body is read to its end although it is too large, as a multiple of the limit: a client that is still sending may
/// not look for an answer.
const DRAINED: usize = 4;

/// Why a request is not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IncomingError {
    #[error("the request's headers have {bytes} bytes, and may have {HEADER_BYTES_MAX}")]
    HeadersTooLarge { bytes: usize },
    #[error("the request's body has more than {max} bytes, the most it may have")]
    BodyTooLarge { max: usize },
    #[error("the request's body was not complete within {} s", BODY_TIMEOUT.as_secs())]
    TooSlow,
    #[error(
        "the request's body has more than {SMALL_BODY_BYTES} bytes, and others that large are being read; try again"
    )]
    Busy,
    #[error("the request's body could not be read")]
    Broken(#[source] axum::Error),
}

/// Checks the size of a request's headers.
pub(crate) fn check_headers(headers: &HeaderMap) -> Result<(), IncomingError> {
    // As HTTP/2 counts them (RFC 9113, 6.5.2).
    let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    if bytes > HEADER_BYTES_MAX { Err(IncomingError::HeadersTooLarge { bytes }) } else { Ok(()) }
}

/// Large bodies that are being read.
#[derive(Clone)]
pub(crate) struct LargeBodies(Arc<Semaphore>);

impl Default for LargeBodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LARGE_BODIES_MAX)))
    }
}

impl LargeBodies {
    /// `body` within limits of size and time. What does not keep to them ends with an [`IncomingError`], made into what the
    /// reader of the body expects.
    pub(crate) fn limit<E>(&self, body: Body, max: usize, error: fn(IncomingError) -> E) -> Body
    where
        E: Into<axum::BoxError> + 'static,
    {
        let deadline = Instant::now() + BODY_TIMEOUT;
        let reading =
            Reading { data: body.into_data_stream(), received: 0, max, deadline, slots: self.0.clone(), slot: None };
        Body::from_stream(try_unfold(reading, move |reading| async move { reading.next().await.map_err(error) }))
    }
}

/// Reads up to `max` bytes of a body that nobody wants.
pub(crate) async fn discard(body: Body, max: usize) {
    let (mut data, mut left) = (body.into_data_stream(), max);
    let reading = async {
        while let Some(Ok(chunk)) = data.next().await {
            let Some(rest) = left.checked_sub(chunk.len()) else { return };
            left = rest;
        }
    };
    // Whoever sends for longer finds the connection closed.
    let _ = timeout(BODY_TIMEOUT, reading).await;
}

struct Reading {
    data: BodyDataStream,
    received: usize,
    max: usize,
    deadline: Instant,
    slots: Arc<Semaphore>,
    /// Taken once the body turns out to be large.
    slot: Option<OwnedSemaphorePermit>,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, IncomingError> {
        loop {
            let next = timeout_at(self.deadline, self.data.next()).await.map_err(|_| IncomingError::TooSlow)?;
            let too_large = IncomingError::BodyTooLarge { max: self.max };
            let Some(chunk) = next.transpose().map_err(IncomingError::Broken)? else {
                return if self.received > self.max { Err(too_large) } else { Ok(None) };
            };
            self.received += chunk.len();
            if self.received > DRAINED * self.max {
                return Err(too_large);
            }
            if self.received <= self.max {
                if self.received > SMALL_BODY_BYTES && self.slot.is_none() {
                    self.wait_for_slot().await?;
                }
                return Ok(Some((chunk, self)));
            }
        }
    }

    async fn wait_for_slot(&mut self) -> Result<(), IncomingError> {
        let slot = timeout(LARGE_BODY_WAIT, self.slots.clone().acquire_owned()).await;
        self.slot = Some(slot.map_err(|_| IncomingError::Busy)?.expect("nobody closes the semaphore"));
        // The wait was not the sender's fault.
        self.deadline = Instant::now() + BODY_TIMEOUT;
        Ok(())
    }
}
