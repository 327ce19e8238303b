//! The APIs on their listeners.

use crate::accept::Acceptor;
use crate::access::{Gate, Keys};
use crate::dialects::grpc::{self, reflection};
use crate::http::{self, Shared, router};
use crate::incoming::LargeBodies;
use crate::limits::{DEFAULT_PAYLOAD_LIMIT, DEFAULT_STALL_LIMIT, GRPC_MESSAGE_BYTES_MAX};
use crate::telemetry::observed;
use crate::{GrpcApi, Service, Tls};
use coordinator::Status;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use wire::generation::generation_server::GenerationServer;

/// How long connections may stay once everything is answered: slow readers fetch their answers, and whoever has not sent a whole
/// request does not hold up the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Under which names the health service knows the model: the server as a whole, and its service.
const HEALTH_NAMES: [&str; 2] = ["", "peregrine.v1.Generation"];

/// Where the APIs listen.
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For HTTP.
    pub http: TcpListener,
}

/// Who may ask, and what a request may take of the server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long the reader of an answer may read nothing of it.
    pub stall_limit: Duration,
    /// Bytes of the body of an HTTP request.
    pub payload_limit: usize,
    /// Of these a call must show one. Without them every call is let in.
    pub keys: Option<Keys>,
    /// What both listeners show their clients. Without it they speak no TLS.
    pub tls: Option<Tls>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { stall_limit: DEFAULT_STALL_LIMIT, payload_limit: DEFAULT_PAYLOAD_LIMIT, keys: None, tls: None }
    }
}

impl GrpcApi {
    /// The gRPC services: generation, health, which follows the model's status by way of `reporter`, and reflection.
    ///
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn routes(self, reporter: HealthReporter) -> Routes {
        let health = tonic_health::pb::health_server::HealthServer::new(
            tonic_health::server::HealthService::from_health_reporter(reporter.clone()),
        );
        tokio::spawn(report_health(self.service.clone(), reporter));
        let generation = GenerationServer::new(self)
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip);
        let routes = Routes::new(generation).add_service(health);
        let descriptors = [
            wire::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            // The details of errors.
            tonic_types::pb::FILE_DESCRIPTOR_SET,
        ];
        let described = reflection::add(routes, &["peregrine.v1.Generation", "grpc.health.v1.Health"], &descriptors);
        described.expect("the descriptors were made with the services")
    }
}

/// Serves until `end` resolves, and then as long as open calls take, within a limit. A client that reads nothing of an answer for
/// the limit of `settings` loses it.
pub async fn serve(service: Service, listeners: Listeners, settings: Settings, end: impl Future<Output = ()>) {
    let Settings { stall_limit, payload_limit, keys, tls } = settings;
    let (closing, closed) = watch::channel(false);
    let mut health = HealthReporter::new();
    let (bodies, telemetry) = (LargeBodies::default(), service.telemetry().clone());
    let api = GrpcApi::new(service.clone(), Some(stall_limit));
    let grpc = grpc::limited(api.routes(health.clone()), Gate::grpc(keys.clone()), bodies.clone());
    let grpc = Acceptor {
        name: "gRPC",
        listener: listeners.grpc,
        routes: observed(grpc, telemetry.clone(), true),
        tls: tls.clone(),
        http2_only: true,
        stall_limit,
    };
    let routes = router(Shared { service, stall_limit, payload_limit });
    let routes = http::limited(routes, Gate::http(keys), bodies, payload_limit);
    let routes = observed(routes, telemetry.clone(), false);
    let http = Acceptor { name: "HTTP", listener: listeners.http, routes, tls, http2_only: false, stall_limit };
    let both = async { tokio::join!(grpc.run(closed.clone()), http.run(closed)) };
    let limit = async {
        end.await;
        // Otherwise whoever watches would hold the connection open.
        for name in HEALTH_NAMES {
            health.clear_service_status(name).await;
        }
        closing.send_replace(true);
        tokio::time::sleep(CLOSE_LIMIT).await;
    };
    tokio::select! {
        _ = both => {}
        () = limit => {}
    }
    // The exporter has a thread of its own, and waiting for it would hold up this one.
    let _ = tokio::task::spawn_blocking(move || telemetry.flush()).await;
}

/// Tells the health service how the model is.
async fn report_health(service: Service, reporter: HealthReporter) {
    let mut statuses = WatchStream::new(service.status());
    while let Some(status) = statuses.next().await {
        let serving = match status {
            Status::Ready { .. } => ServingStatus::Serving,
            _ => ServingStatus::NotServing,
        };
        for name in HEALTH_NAMES {
            reporter.set_service_status(name, serving).await;
        }
    }
}
