//! A real S3-compatible server on loopback, with somebody in front of it who counts, and breaks what it is told to break.

use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use std::convert::Infallible;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::TcpListener;

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI";
pub const BUCKET: &str = "models";

/// A request for an object, and what was sent of it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// The object, without the bucket.
    pub key: String,
    /// Of the object's bytes.
    pub range: Option<Range<u64>>,
    /// Bytes of the object that were sent.
    pub sent: u64,
}

/// What goes wrong with an answer.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The connection is killed after so many bytes.
    Cut(u64),
    /// Some bit of the byte at this place of the object is another.
    Flip(u64),
    /// The server says this instead.
    Status(u16),
}

type Plan = Box<dyn FnMut(&Asked) -> Option<Fault> + Send>;
type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

#[derive(Default)]
struct Watch {
    asked: Mutex<Vec<Asked>>,
    plan: Mutex<Option<Plan>>,
}

/// The server. It ends when it is dropped.
pub struct S3 {
    address: String,
    root: TempDir,
    watch: Arc<Watch>,
    _runtime: Runtime,
}

/// A runtime that is dropped from within another.
struct Runtime(Option<tokio::runtime::Runtime>);

impl Drop for Runtime {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(tokio::runtime::Runtime::shutdown_background);
    }
}

impl S3 {
    pub fn start() -> Self {
        let root = TempDir::new().expect("a temporary folder");
        std::fs::create_dir(root.path().join(BUCKET)).expect("a bucket");
        let service = {
            let mut builder = S3ServiceBuilder::new(FileSystem::new(root.path()).expect("a folder"));
            builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
            builder.build()
        };
        let watch = Arc::<Watch>::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address").to_string();
        let watching = Arc::clone(&watch);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a socket");
            while let Ok((socket, _)) = listener.accept().await {
                let (service, watch) = (service.clone(), Arc::clone(&watching));
                let answer = service_fn(move |request| answer(service.clone(), Arc::clone(&watch), request));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer));
            }
        });
        Self { address, root, watch, _runtime: Runtime(Some(runtime)) }
    }

    /// What a client needs to reach it.
    pub fn variables(&self) -> Vec<(String, String)> {
        let variables = [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("AWS_REGION", "eu-west-1".to_owned()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// What has been asked for since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.watch.asked.lock().expect("no panic"))
    }

    /// What has been asked for of objects' bytes since the last call.
    pub fn gets(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.method == "GET" && asked.range.is_some()).collect()
    }

    /// From now on this decides what goes wrong.
    pub fn break_by(&self, plan: impl FnMut(&Asked) -> Option<Fault> + Send + 'static) {
        *self.watch.plan.lock().expect("no panic") = Some(Box::new(plan));
    }

    pub fn mend(&self) {
        *self.watch.plan.lock().expect("no panic") = None;
    }

    /// Where the server keeps an object.
    pub fn file(&self, key: &str) -> PathBuf {
        self.root.path().join(BUCKET).join(key)
    }

    /// The folder of all that the server keeps.
    pub fn root(&self) -> &Path {
        self.root.path()
    }
}

async fn answer(service: S3Service, watch: Arc<Watch>, request: Request<Incoming>) -> Result<Answer, s3s::HttpError> {
    let key = request.uri().path().trim_start_matches(&format!("/{BUCKET}/")).to_owned();
    let range = request.headers().get("range").and_then(|range| range.to_str().ok()).map(|range| {
        let (start, end) = range.trim_start_matches("bytes=").split_once('-').expect("a range");
        start.parse().expect("a number")..end.parse::<u64>().expect("a number") + 1
    });
    let asked = Asked { method: request.method().to_string(), key, range, sent: 0 };
    let fault = watch.plan.lock().expect("no panic").as_mut().and_then(|plan| plan(&asked));
    let (number, start) = {
        let mut all = watch.asked.lock().expect("no panic");
        all.push(asked.clone());
        (all.len() - 1, asked.range.map_or(0, |range| range.start))
    };
    if let Some(Fault::Status(status)) = fault {
        let body = Full::new(Bytes::new()).map_err(|never: Infallible| match never {}).boxed_unsync();
        return Ok(Response::builder().status(status).body(body).expect("an answer"));
    }
    let (parts, body) = Service::call(&service, request).await?.into_parts();
    let body = StreamBody::new(pieces(body, watch, number, start, fault));
    Ok(Response::from_parts(parts, BodyExt::boxed_unsync(body)))
}

/// The pieces of a body, as the fault wants them, counted.
fn pieces(
    body: s3s::Body,
    watch: Arc<Watch>,
    number: usize,
    start: u64,
    fault: Option<Fault>,
) -> impl Stream<Item = Result<Frame<Bytes>, io::Error>> {
    stream::try_unfold((body, 0), move |(mut body, sent)| {
        let watch = Arc::clone(&watch);
        async move {
            let Some(frame) = body.frame().await else { return Ok(None) };
            let frame = frame.map_err(io::Error::other)?;
            let Ok(bytes) = frame.into_data() else { return Ok(None) };
            let next = sent + bytes.len() as u64;
            let bytes = match fault {
                Some(Fault::Cut(after)) if next > after => return Err(io::ErrorKind::ConnectionReset.into()),
                Some(Fault::Flip(at)) if (start + sent..start + next).contains(&at) => {
                    let mut bytes = bytes.to_vec();
                    bytes[(at - start - sent) as usize] ^= 4;
                    bytes.into()
                }
                _ => bytes,
            };
            // Whoever took the list in between does not count this answer.
            if let Some(asked) = watch.asked.lock().expect("no panic").get_mut(number) {
                asked.sent = next;
            }
            Ok(Some((Frame::data(bytes), (body, next))))
        }
    })
}
