//! HTTP/2 by hand: what no client would send, and bytes in the order in which they are given.

use super::within;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// No window ever closes.
const WINDOW: u32 = 0x7fff_0000;

/// A connection to a gRPC server.
pub struct Http2 {
    stream: TcpStream,
    next_id: u32,
}

impl Http2 {
    /// Connects, and opens all windows.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("gRPC listens");
        let mut begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut begin, SETTINGS, 0, 0, &[&[0, 4], &WINDOW.to_be_bytes()[..]].concat());
        frame(&mut begin, WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
        stream.write_all(&begin).await.expect("the server reads");
        Self { stream, next_id: 1 }
    }

    /// The frames that make a call with this message, and the call's stream.
    pub fn call(&mut self, path: &str, message: &[u8]) -> (Vec<u8>, u32) {
        let id = self.next_id;
        self.next_id += 2;
        let mut headers = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "peregrine"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            // A literal that is not put into the table; all lengths here are below 127.
            headers.push(0);
            for text in [name, value] {
                headers.push(u8::try_from(text.len()).expect("short"));
                headers.extend(text.as_bytes());
            }
        }
        let mut frames = Vec::new();
        frame(&mut frames, HEADERS, END_HEADERS, id, &headers);
        let length = u32::try_from(message.len()).expect("short").to_be_bytes();
        frame(&mut frames, DATA, END_STREAM, id, &[&[0], &length[..], message].concat());
        (frames, id)
    }

    /// The frame that cancels a stream.
    pub fn cancel(id: u32) -> Vec<u8> {
        let mut frames = Vec::new();
        frame(&mut frames, RST_STREAM, 0, id, &8_u32.to_be_bytes());
        frames
    }

    /// Sends frames.
    pub async fn send(&mut self, frames: &[u8]) {
        self.stream.write_all(frames).await.expect("the server reads");
    }

    /// The next data of a stream, `None` at its end. What other streams get is passed over.
    pub async fn data(&mut self, stream: u32) -> Option<Vec<u8>> {
        within("a frame", async {
            loop {
                let mut head = [0; 9];
                self.stream.read_exact(&mut head).await.expect("the connection lives");
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let (kind, flags) = (head[3], head[4]);
                let id = u32::from_be_bytes(head[5..].try_into().expect("four bytes"));
                let mut payload = vec![0; length];
                self.stream.read_exact(&mut payload).await.expect("a whole frame");
                let mut answer = Vec::new();
                match kind {
                    GOAWAY => panic!("the connection is ended: {}", String::from_utf8_lossy(&payload)),
                    SETTINGS if flags & ACK == 0 => frame(&mut answer, SETTINGS, ACK, 0, &[]),
                    PING if flags & ACK == 0 => frame(&mut answer, PING, ACK, 0, &payload),
                    RST_STREAM if id == stream => panic!("the stream is reset"),
                    DATA if id == stream => return Some(payload),
                    HEADERS if id == stream && flags & END_STREAM != 0 => return None,
                    _ => {}
                }
                self.stream.write_all(&answer).await.expect("the server reads");
            }
        })
        .await
    }
}

fn frame(frames: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    frames.extend(&u32::try_from(payload.len()).expect("short").to_be_bytes()[1..]);
    frames.extend([kind, flags]);
    frames.extend(stream.to_be_bytes());
    frames.extend(payload);
}
