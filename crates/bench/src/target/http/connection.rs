//! HTTP/1.1 to one server, over connections that are kept.
//!
//! The task that waits for an answer does its connection's work itself. Clients that leave it to a task of its own wake two tasks for
//! each event, which costs as much as reading it.

use super::super::{TargetError, TargetOptions, base_url};
use super::tls;
use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::http::response::Parts;
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

/// A server, and what each request to it has.
#[derive(Clone)]
pub(super) struct Server {
    /// Its URL, without a slash at its end.
    base: String,
    host: String,
    port: u16,
    /// If it is one by https.
    tls: Option<TlsConnector>,
    /// What every path begins with.
    prefix: String,
    headers: HeaderMap,
    idle: Idle,
}

/// Connections without a request.
type Idle = Arc<Mutex<Vec<Connection>>>;

/// An answer whose body is still to be read: a stream of its pieces.
pub(super) struct Reply {
    /// Status and headers.
    pub(super) head: Parts,
    body: Incoming,
    /// `None` once it has gone back to those without a request.
    connection: Option<Connection>,
    idle: Idle,
}

struct Connection {
    requests: SendRequest<Full<Bytes>>,
    /// What reads and writes; `None` once it has ended.
    work: Option<Pin<Box<Work>>>,
}

/// Reads and writes when it is polled.
type Work = http1::Connection<TokioIo<Box<dyn Io>>, Full<Bytes>>;

/// A connection of bytes, plain or by TLS.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Server {
    /// The server of `options`, to which every request has `headers`.
    pub(super) fn new(options: &TargetOptions, mut headers: HeaderMap) -> Result<Self, TargetError> {
        let base = base_url(&options.address)?;
        let unusable = |error: &dyn Error| TargetError::address(&base, error);
        let url: Uri = base.parse().map_err(|error| unusable(&error))?;
        let authority = url.authority().map_or("", |authority| authority.as_str());
        headers.insert(HOST, HeaderValue::try_from(authority).map_err(|error| unusable(&error))?);
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        let is_https = url.scheme_str() == Some("https");
        Ok(Self {
            host: url.host().unwrap_or_default().to_owned(),
            port: url.port_u16().unwrap_or(if is_https { 443 } else { 80 }),
            prefix: url.path().trim_end_matches('/').to_owned(),
            tls: is_https.then(|| tls::connector(options)).transpose()?,
            headers,
            idle: Idle::default(),
            base,
        })
    }

    pub(super) async fn get(&self, route: &str) -> Result<Reply, TargetError> {
        self.ask(self.request(Method::GET, route, Bytes::new())?).await
    }

    /// Posts JSON.
    pub(super) async fn post(&self, route: &str, body: Bytes) -> Result<Reply, TargetError> {
        let mut request = self.request(Method::POST, route, body)?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.ask(request).await
    }

    fn request(&self, method: Method, route: &str, body: Bytes) -> Result<Request<Full<Bytes>>, TargetError> {
        let request = Request::builder().method(method).uri(format!("{}{route}", self.prefix)).body(Full::new(body));
        let mut request = request.map_err(|error| TargetError::address(&self.base, &error))?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }

    async fn ask(&self, mut request: Request<Full<Bytes>>) -> Result<Reply, TargetError> {
        loop {
            let kept = self.kept().await;
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect().await.map_err(|error| TargetError::connect(&self.base, &*error))?,
            };
            let sent = connection.requests.try_send_request(request);
            match connection.during(sent).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    return Ok(Reply { head, body, connection: Some(connection), idle: self.idle.clone() });
                }
                // The server has closed it before, and has seen nothing of the request.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if is_kept => request = unsent,
                    _ => return Err(TargetError::broken(error.error())),
                },
            }
        }
    }

    /// A connection that is kept, and that the server is not known to have closed.
    async fn kept(&self) -> Option<Connection> {
        let kept = || self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        while let Some(mut connection) = kept() {
            if connection.is_ready().await {
                return Some(connection);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Connection, Box<dyn Error + Send + Sync>> {
        let stream = TcpStream::connect(format!("{}:{}", self.host, self.port)).await?;
        stream.set_nodelay(true)?;
        // Addresses of IPv6 have brackets in a URL.
        let name = || ServerName::try_from(self.host.trim_matches(['[', ']']).to_owned());
        let stream: Box<dyn Io> = match &self.tls {
            Some(tls) => Box::new(tls.connect(name()?, stream).await?),
            None => Box::new(stream),
        };
        let (requests, work) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Connection { requests, work: Some(Box::pin(work)) })
    }
}

impl Connection {
    /// Reads and writes what can be. An error comes from whatever waits for the connection.
    fn work(&mut self, cx: &mut Context<'_>) {
        if self.work.as_mut().is_some_and(|work| work.as_mut().poll(cx).is_ready()) {
            self.work = None;
        }
    }

    /// Waits for something that comes over the connection.
    async fn during<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let both = |cx: &mut Context<'_>| {
            self.work(cx);
            future.as_mut().poll(cx)
        };
        poll_fn(both).await
    }

    /// Whether it takes another request.
    async fn is_ready(&mut self) -> bool {
        let poll = |cx: &mut Context<'_>| {
            self.work(cx);
            if self.work.is_none() {
                Poll::Ready(false)
            } else {
                self.requests.poll_ready(cx).map(|ready| ready.is_ok())
            }
        };
        poll_fn(poll).await
    }
}

impl Reply {
    /// The rest of the body.
    pub(super) async fn text(mut self) -> Result<String, TargetError> {
        let mut body = Vec::new();
        while let Some(bytes) = self.next().await {
            body.extend_from_slice(&bytes?);
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

impl Stream for Reply {
    type Item = Result<Bytes, TargetError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            let Some(connection) = &mut this.connection else { return Poll::Ready(None) };
            connection.work(cx);
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Poll::Ready(Some(Ok(data))),
                    Err(_trailers) => {}
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(TargetError::broken(&error)))),
                None => {
                    let connection = this.connection.take();
                    this.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(connection);
                }
            }
        }
    }
}
