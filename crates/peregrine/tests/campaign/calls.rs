//! A call, made and heard.

use crate::cases::{Case, Shape};
use crate::heard::{Heard, cacheless, without_cached_tokens};
use crate::lives::Life;
use serde_json::Value;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};
use wire::generation as pb;
use wire::generation::generation_client::GenerationClient;

/// How a call ended that was not answered to its end.
#[derive(Debug)]
pub enum Failure {
    /// The connection ended, or there was none.
    Lost(String),
    /// Its deadline passed.
    Deadline,
    /// The server does not serve yet, or no more.
    Unavailable(String),
    /// Whatever else the server said.
    Refused(String),
    /// The caller left.
    Left,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(why) => write!(f, "the connection ended: {why}"),
            Self::Deadline => f.write_str("a deadline passed"),
            Self::Unavailable(why) => write!(f, "the server does not serve: {why}"),
            Self::Refused(why) => write!(f, "an error: {why}"),
            Self::Left => f.write_str("the caller left"),
        }
    }
}

/// What the caller does between two messages.
pub trait Caller {
    /// Hears that the answer is as far as `heard`. Says whether the caller stays.
    fn hears(&mut self, heard: &Heard) -> impl Future<Output = bool> + Send;
}

/// Makes a call, with a deadline if the caller has one and the face knows of it.
pub async fn call(
    case: &Case,
    life: Life,
    deadline: Option<Duration>,
    heard: &mut Heard,
    caller: &mut impl Caller,
) -> Result<(), Failure> {
    match case {
        Case::Grpc { request, stream } => {
            let mut request = Request::new((**request).clone());
            if let Some(deadline) = deadline {
                request.set_timeout(deadline);
            }
            grpc(request, *stream, life.grpc, heard, caller).await
        }
        Case::Http { path, body, shape } => http(path, body, *shape, life.http, heard, caller).await,
    }
}

async fn grpc(
    request: Request<pb::GenerateRequest>,
    stream: bool,
    address: SocketAddr,
    heard: &mut Heard,
    caller: &mut impl Caller,
) -> Result<(), Failure> {
    let has_deadline = request.metadata().contains_key("grpc-timeout");
    let failed = |status: Status| match status.code() {
        // A client watches the clock, too, and may be first: then it says that the call is cancelled.
        Code::DeadlineExceeded | Code::Cancelled if has_deadline => Failure::Deadline,
        // What the server itself says has no source.
        _ if std::error::Error::source(&status).is_some() => Failure::Lost(status.to_string()),
        Code::Unavailable => Failure::Unavailable(status.to_string()),
        _ => Failure::Refused(status.to_string()),
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let channel = endpoint.connect().await.map_err(|error| Failure::Lost(error.to_string()))?;
    let mut stub = GenerationClient::new(channel);
    if !stream {
        let answer = stub.generate(request).await.map_err(failed)?.into_inner();
        let details = answer.details.map(cacheless);
        *heard = Heard::at_once(format!("{:?} {details:?}", answer.generated_text));
        return Ok(());
    }
    let mut messages = stub.generate_stream(request).await.map_err(failed)?.into_inner();
    while let Some(message) = messages.message().await.map_err(failed)? {
        if heard.is_whole() {
            return Err(Failure::Refused("a message behind the last".to_owned()));
        }
        heard.grpc(&message);
        if !caller.hears(heard).await {
            return Err(Failure::Left);
        }
    }
    Ok(())
}

/// Asks as an HTTP/1.0 client, to whom answers come without chunks.
async fn http(
    path: &str,
    body: &str,
    shape: Shape,
    address: SocketAddr,
    heard: &mut Heard,
    caller: &mut impl Caller,
) -> Result<(), Failure> {
    let lost = |error: std::io::Error| Failure::Lost(error.to_string());
    let mut stream = TcpStream::connect(address).await.map_err(lost)?;
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(head.as_bytes()).await.map_err(lost)?;
    let mut answer = BufReader::new(stream);
    let status = head_of(&mut answer).await?;
    if status == 200 && shape != Shape::Whole {
        return events(&mut answer, shape, heard, caller).await;
    }
    let mut text = String::new();
    answer.read_to_string(&mut text).await.map_err(lost)?;
    match (status, serde_json::from_str::<Value>(&text)) {
        (200, Ok(mut answer)) => {
            without_cached_tokens(&mut answer);
            let choices = answer.get("choices");
            *heard = Heard::at_once(choices.unwrap_or(&answer).to_string());
            Ok(())
        }
        (200, Err(error)) => Err(Failure::Lost(error.to_string())),
        (503, _) => Err(Failure::Unavailable(text)),
        _ => Err(Failure::Refused(format!("{status}: {text}"))),
    }
}

/// The status of an answer, whose head is read.
async fn head_of(answer: &mut BufReader<TcpStream>) -> Result<u16, Failure> {
    let mut status = None;
    loop {
        let line = line_of(answer).await?;
        match status {
            None => status = line.split(' ').nth(1).and_then(|status| status.parse().ok()),
            Some(status) if line.is_empty() => return Ok(status),
            Some(_) => {}
        }
    }
}

async fn line_of(answer: &mut BufReader<TcpStream>) -> Result<String, Failure> {
    let mut line = String::new();
    match answer.read_line(&mut line).await {
        Ok(0) => Err(Failure::Lost("the end, before all had come".to_owned())),
        Ok(_) => Ok(line.trim_end().to_owned()),
        Err(error) => Err(Failure::Lost(error.to_string())),
    }
}

async fn events(
    answer: &mut BufReader<TcpStream>,
    shape: Shape,
    heard: &mut Heard,
    caller: &mut impl Caller,
) -> Result<(), Failure> {
    while !heard.is_whole() {
        let line = line_of(answer).await?;
        // Other lines are the names of events, comments, and the ends of events.
        let Some(data) = line.strip_prefix("data:").map(str::trim_start) else { continue };
        if data == "[DONE]" {
            heard.done();
            break;
        }
        let mut event: Value =
            serde_json::from_str(data).map_err(|error| Failure::Refused(format!("{error}: {data}")))?;
        match (event.get("error"), shape) {
            (Some(_), _) if data.contains("unavailable") || data.contains("incomplete_generation") => {
                return Err(Failure::Unavailable(data.to_owned()));
            }
            (Some(_), _) => return Err(Failure::Refused(data.to_owned())),
            (None, Shape::OpenAiEvents) => heard.openai(&event),
            (None, _) => heard.tgi(&mut event),
        }
        if !caller.hears(heard).await {
            return Err(Failure::Left);
        }
    }
    match line_of(answer).await {
        Ok(line) if !line.is_empty() => Err(Failure::Refused(format!("{line}, behind the end"))),
        _ => Ok(()),
    }
}
