//! The beginning of a connection: TLS where the listener has it, and a word to whoever speaks the other language.

use crate::limits::{HANDSHAKE_TIMEOUT, HEADER_TIMEOUT, LINGER};
use crate::seldom::Seldom;
use crate::socket::Stream;
use std::io::Result;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::either::Either;
use tracing::debug;

/// With what a record of a TLS handshake begins (RFC 8446, 5.1). No request of HTTP does.
const HANDSHAKE: u8 = 0x16;
/// With what a client begins that speaks HTTP/2 without TLS.
const PRIOR_KNOWLEDGE: &[u8] = b"PRI";
/// The alert `handshake_failure`, which is fatal.
const ALERT: &[u8] = &[0x15, 3, 1, 0, 2, 2, 40];
/// What is said on a port of TLS to who does not speak it.
const SPEAKS_TLS: &str = "this port speaks TLS: ask it by https";
/// Bytes that are read from who is not let in, so that he sees why.
const DISCARDED_MAX: u64 = 64 << 10;

/// How connections of a listener begin.
pub(crate) struct Opening {
    /// For the log.
    pub(crate) name: &'static str,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) log: Arc<Seldom>,
}

impl Opening {
    /// The connection from where HTTP begins, if it comes to that in time.
    pub(crate) async fn open(self, tcp: TcpStream, peer: SocketAddr) -> Option<Stream> {
        let limit = if self.tls.is_some() { HANDSHAKE_TIMEOUT } else { HEADER_TIMEOUT };
        match timeout(limit, self.begin(tcp)).await {
            Ok(Ok(stream)) => return Some(stream),
            // Nothing was sent; there is nothing to say about it.
            Ok(Err(Failure::Silent)) => {}
            Ok(Err(Failure::Said(what))) => self.refused(peer, &what),
            Err(_) if self.tls.is_some() => self.refused(peer, "no TLS handshake in time"),
            Err(_) => {}
        }
        None
    }

    fn refused(&self, peer: SocketAddr, what: &str) {
        debug!("{}: {peer}: {what}", self.name);
        self.log.warn(format_args!("{}: {peer} was not let in: {what}", self.name));
    }

    async fn begin(&self, tcp: TcpStream) -> std::result::Result<Stream, Failure> {
        let mut first = [0; PRIOR_KNOWLEDGE.len()];
        let count = tcp.peek(&mut first).await.unwrap_or(0);
        let first = &first[..count];
        match (&self.tls, first) {
            (_, []) => Err(Failure::Silent),
            (Some(config), [HANDSHAKE, ..]) => {
                let handshake = TlsAcceptor::from(config.clone()).accept(tcp).await;
                handshake
                    .map(|stream| Either::Right(Box::new(stream)))
                    .map_err(|error| Failure::Said(error.to_string()))
            }
            (Some(_), _) => {
                let answer = if first == PRIOR_KNOWLEDGE { go_away() } else { bad_request() };
                end(tcp, &answer).await;
                Err(Failure::Said("it speaks HTTP without TLS".to_owned()))
            }
            (None, [HANDSHAKE, ..]) => {
                end(tcp, ALERT).await;
                Err(Failure::Said("it speaks TLS, which this port does not (--tls-cert, --tls-key)".to_owned()))
            }
            (None, _) => Ok(Either::Left(tcp)),
        }
    }
}

/// Why a connection does not come to HTTP.
enum Failure {
    Silent,
    Said(String),
}

/// Sends a last word, and reads for a moment what else the peer sends: a connection that is closed before that takes the word back.
async fn end(mut tcp: TcpStream, word: &[u8]) {
    let saying = async {
        tcp.write_all(word).await?;
        tcp.shutdown().await?;
        tokio::io::copy(&mut tcp.take(DISCARDED_MAX), &mut tokio::io::sink()).await?;
        Result::Ok(())
    };
    let _ = timeout(LINGER, saying).await;
}

fn bad_request() -> Vec<u8> {
    let length = SPEAKS_TLS.len() + 1;
    let head = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length:";
    format!("{head} {length}\r\n\r\n{SPEAKS_TLS}\n").into_bytes()
}

/// HTTP/2's settings, and its end for INADEQUATE_SECURITY (RFC 9113, 6.5, 6.8 and 7).
fn go_away() -> Vec<u8> {
    let length = u8::try_from(8 + SPEAKS_TLS.len()).expect("a short text");
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let head = [0, 0, length, 7, 0, 0, 0, 0, 0];
    let reason = [0, 0, 0, 0, 0, 0, 0, 0xc];
    [&settings[..], &head, &reason, SPEAKS_TLS.as_bytes()].concat()
}
