//! What one caller, one connection and all connections together may use. docs/limits.md lists them for operators.

use std::time::Duration;

/// Bytes of one gRPC message from a client. A reader of 4 MiB is what gRPC's own libraries have by default.
pub(crate) const GRPC_MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Bytes of the body of an HTTP request where nobody says how many, as in Text Generation Inference.
pub const DEFAULT_PAYLOAD_LIMIT: usize = 2 << 20;

/// Bytes of a request's headers (gRPC: metadata), counted as HTTP/2 does: names, values, and 32 for each. Gateways add traces and
/// tokens of some kilobytes.
pub(crate) const HEADER_BYTES_MAX: usize = 64 << 10;

/// What the protocol itself refuses. Larger than [`HEADER_BYTES_MAX`], so that calls between the two get an answer that names
/// the limit; beyond this one HTTP/2 has only a bare 431, and beyond some more the end of the connection.
pub(crate) const PROTOCOL_HEADER_BYTES_MAX: usize = 1 << 20;

/// The same for HTTP/1.1: what is read ahead of a connection.
pub(crate) const HTTP1_BUFFER_BYTES: usize = 2 * HEADER_BYTES_MAX;

/// How long the headers of a request may take to arrive, from the start of the connection or the last answer on. A connection
/// over HTTP/1 that is idle for so long is closed.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may take to begin TLS, from its start on.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection that is refused may stay, so that its peer sees why.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// How long a body may take to arrive: 140 kB/s for the largest.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Bodies up to this size are read at once. It is also how much of a stream HTTP/2 sends before it is read.
pub(crate) const SMALL_BODY_BYTES: usize = 64 << 10;

/// Larger bodies that are read at once; others wait for them, without holding up small ones. A message takes several times its bytes
/// while it is decoded.
pub(crate) const LARGE_BODIES_MAX: usize = 8;

/// How long a large body waits for others.
pub(crate) const LARGE_BODY_WAIT: Duration = Duration::from_secs(30);

/// Streams of one HTTP/2 connection that are open at once. Clients wait for one to end before they open another.
pub(crate) const STREAMS_MAX: u32 = 1024;

/// Streams of one connection that its client may have cancelled before they were looked at: more than the 10,000 callers of a gateway
/// that all give up at once. About 1 KiB is held for each, for one turn of the connection's task.
pub(crate) const PENDING_RESETS_MAX: usize = 16 << 10;

/// Errors of single streams, over a connection's whole life, after which it is taken for an attack and closed. Late data of calls
/// that were refused early count, so that a long-lived connection of a gateway collects some.
pub(crate) const STREAM_ERRORS_MAX: usize = 64 << 10;

/// How long the reader of an answer may stand still: long enough for a proxy that restarts or a laptop's short sleep, short
/// enough that readers who have gone do not keep others out for long.
pub const DEFAULT_STALL_LIMIT: Duration = Duration::from_secs(60);

/// Connections of one listener at once where nobody says how many, if there are descriptors for so many.
pub const DEFAULT_CONNECTIONS_MAX: usize = 4096;

/// Connections of the listener for metrics.
pub(crate) const METRICS_CONNECTIONS_MAX: usize = 32;

/// Descriptors that are left for all else: listeners, workers, models' files.
const DESCRIPTORS_RESERVED: u64 = 64;

/// A peer that has vanished without a word is found by these: by HTTP/2's pings, or by TCP's.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a connection that was there before a drain may stand idle before it is closed: so long a request may be on its way
/// whose client had not seen yet that the server takes no more. The server itself ends no earlier while such connections are open.
pub(crate) const DRAIN_LINGER: Duration = Duration::from_secs(1);

/// The connections of each of the two listeners: `asked` for, where the process may have so many `descriptors`.
pub(crate) fn connections_max(descriptors: u64, asked: usize) -> usize {
    let others = DESCRIPTORS_RESERVED + METRICS_CONNECTIONS_MAX as u64;
    asked.min((descriptors.saturating_sub(others) / 2).max(8) as usize)
}
