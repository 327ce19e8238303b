//! The APIs on their listeners.

use crate::http::router;
use crate::{GrpcApi, Service};
use axum::serve::ListenerExt;
use coordinator::Status;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use wire::generation::generation_server::GenerationServer;

/// How long connections may stay once everything is answered: slow readers fetch their answers, and whoever has not sent a whole
/// request does not hold up the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// A client that has vanished without a word is found by these, and its requests end.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Under which names the health service knows the model: the server as a whole, and its service.
const HEALTH_NAMES: [&str; 2] = ["", "peregrine.v1.Generation"];

/// Where the APIs listen.
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For HTTP.
    pub http: TcpListener,
}

impl GrpcApi {
    /// The gRPC services: generation, health, which follows the model's status by way of `reporter`, and reflection.
    ///
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn routes(service: Service, reporter: HealthReporter) -> Routes {
        let health = tonic_health::pb::health_server::HealthServer::new(
            tonic_health::server::HealthService::from_health_reporter(reporter.clone()),
        );
        tokio::spawn(report_health(service.clone(), reporter));
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .with_service_name("peregrine.v1.Generation")
                .with_service_name("grpc.health.v1.Health")
        };
        const SOUND: &str = "the descriptors were made with the services";
        let routes = Routes::new(GenerationServer::new(Self(service))).add_service(health);
        // Older clients know the second only.
        let routes = routes.add_service(reflection().build_v1().expect(SOUND));
        routes.add_service(reflection().build_v1alpha().expect(SOUND))
    }
}

/// Serves until `end` resolves, and then as long as open calls take, within a limit.
///
/// # Errors
///
/// When a listener fails.
pub async fn serve(service: Service, listeners: Listeners, end: impl Future<Output = ()>) -> std::io::Result<()> {
    let (closing, closed) = tokio::sync::watch::channel(false);
    let until_closing = |mut closed: tokio::sync::watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which says the same.
        let _ = closed.wait_for(|closing| *closing).await;
    };
    let mut health = HealthReporter::new();
    // Tokens are small messages, which must not wait for the acknowledgement of the one before.
    let calls = TcpIncoming::from(listeners.grpc).with_nodelay(Some(true));
    let connections = listeners.http.tap_io(|connection| {
        // Without it answers are slower, and no less right.
        let _ = connection.set_nodelay(true);
    });
    let grpc = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_routes(GrpcApi::routes(service.clone(), health.clone()))
        .serve_with_incoming_shutdown(calls, until_closing(closed.clone()));
    let http = axum::serve(connections, router(service)).with_graceful_shutdown(until_closing(closed));
    let both =
        async { tokio::try_join!(async { grpc.await.map_err(std::io::Error::other) }, http.into_future()).map(|_| ()) };
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
        result = both => result,
        () = limit => Ok(()),
    }
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
