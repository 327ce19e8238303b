//! The APIs on their listeners.

use crate::accept::Acceptor;
use crate::access::{Gate, Keys, Origin, cors};
use crate::descriptors::descriptor_limit;
use crate::dialects::grpc::{self, AdminApi, reflection};
use crate::http::{self, Shared, monitoring, router};
use crate::incoming::LargeBodies;
use crate::limits::{
    DEFAULT_CONNECTIONS_MAX, DEFAULT_PAYLOAD_LIMIT, DEFAULT_STALL_LIMIT, GRPC_MESSAGE_BYTES_MAX,
    METRICS_CONNECTIONS_MAX, connections_max,
};
use crate::telemetry::observed;
use crate::{GrpcApi, Listener, Service, StateName, Tls};
use std::io;
use std::time::Duration;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use wire::generation::admin_server::AdminServer;
use wire::generation::generation_server::GenerationServer;

/// How long connections may stay once everything is answered: slow readers fetch their answers, and whoever has not sent a whole
/// request does not hold up the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Under which names the health service knows the model: the server as a whole, and its service.
const HEALTH_NAMES: [&str; 2] = ["", "peregrine.v1.Generation"];

/// Under which name the health service knows the process, as `/livez` does: it serves as long as it answers. Supervisors that probe
/// by gRPC have nothing else to ask that does not also fail while the model loads, recovers or drains.
const LIVENESS: &str = "liveness";

/// What reflection lists.
const SERVICES: [&str; 3] = ["peregrine.v1.Generation", "peregrine.v1.Admin", "grpc.health.v1.Health"];

/// Where the APIs listen.
pub struct Listeners {
    /// For gRPC.
    pub grpc: Listener,
    /// For HTTP.
    pub http: Listener,
    /// For metrics and health without key and TLS, if they are not to be had by HTTP alone.
    pub metrics: Option<Listener>,
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
    /// Whose pages may call from a browser.
    pub cors: Vec<Origin>,
    /// Connections of each listener at once, if there are descriptors for so many.
    pub connections_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stall_limit: DEFAULT_STALL_LIMIT,
            payload_limit: DEFAULT_PAYLOAD_LIMIT,
            keys: None,
            tls: None,
            cors: Vec::new(),
            connections_max: DEFAULT_CONNECTIONS_MAX,
        }
    }
}

/// What is told of the gRPC services, and of the details of errors.
const DESCRIPTORS: [&[u8]; 3] =
    [wire::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET, tonic_types::pb::FILE_DESCRIPTOR_SET];

impl GrpcApi {
    /// The gRPC services: generation, administration, health, which follows the state by way of `reporter`, and reflection.
    ///
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn routes(self, reporter: HealthReporter) -> Routes {
        let health = tonic_health::pb::health_server::HealthServer::new(
            tonic_health::server::HealthService::from_health_reporter(reporter.clone()),
        );
        tokio::spawn(report_health(self.service.clone(), reporter));
        let admin = AdminServer::new(AdminApi(self.service.clone()));
        let generation = GenerationServer::new(self)
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip);
        let routes = Routes::new(generation).add_service(admin).add_service(health);
        reflection::add(routes, &SERVICES, &DESCRIPTORS).expect("the descriptors were made with the services")
    }
}

/// Serves until `end` resolves, and then as long as open calls take, within a limit. A client that reads nothing of an answer for
/// the limit of `settings` loses it.
///
/// # Errors
///
/// The system's, if a port cannot be listened on when it is this process's turn.
pub async fn serve(
    service: Service,
    listeners: Listeners,
    settings: Settings,
    end: impl Future<Output = ()>,
) -> io::Result<()> {
    let (closing, closed) = watch::channel(false);
    let mut health = HealthReporter::new();
    let telemetry = service.telemetry().clone();
    let Acceptors { grpc, http, metrics } = acceptors(service, listeners, settings, &health);
    let run = |(acceptor, listener): (Acceptor, Listener)| acceptor.run(listener, closed.clone());
    let metrics = async {
        match metrics {
            Some(metrics) => run(metrics).await,
            None => Ok(()),
        }
    };
    let all = async { tokio::try_join!(run(grpc), run(http), metrics).map(|_| ()) };
    let limit = async {
        end.await;
        // Otherwise whoever watches would hold the connection open.
        for name in HEALTH_NAMES.into_iter().chain([LIVENESS]) {
            health.clear_service_status(name).await;
        }
        closing.send_replace(true);
        tokio::time::sleep(CLOSE_LIMIT).await;
    };
    let ended = tokio::select! {
        ended = all => ended,
        () = limit => Ok(()),
    };
    // The exporter has a thread of its own, and waiting for it would hold up this one.
    let _ = tokio::task::spawn_blocking(move || telemetry.flush()).await;
    ended
}

/// What is served on each listener.
struct Acceptors {
    grpc: (Acceptor, Listener),
    http: (Acceptor, Listener),
    metrics: Option<(Acceptor, Listener)>,
}

fn acceptors(service: Service, listeners: Listeners, settings: Settings, health: &HealthReporter) -> Acceptors {
    let Settings { stall_limit, payload_limit, keys, tls, cors, connections_max: asked } = settings;
    let connections_max = connections_max(descriptor_limit(), asked);
    let metrics_at = listeners.metrics.as_ref().and_then(|listener| listener.local_addr().ok());
    let (bodies, telemetry) = (LargeBodies::default(), service.telemetry().clone());
    let (drain, states) = (service.drains().clone(), service.state_changes());
    let api = GrpcApi::new(service.clone(), Some(stall_limit));
    let routes = grpc::limited(api.routes(health.clone()), Gate::grpc(keys.clone()), bodies.clone());
    let methods = reflection::methods(&DESCRIPTORS).expect("the descriptors were made with the services");
    let grpc = Acceptor {
        name: "gRPC",
        routes: observed(routes, telemetry.clone(), Some(methods.into())),
        tls: tls.clone(),
        http2_only: true,
        connections_max,
        stall_limit,
        drain: drain.clone(),
        states: states.clone(),
    };
    let shared = Shared { service, stall_limit, payload_limit, metrics_at };
    let routes = http::limited(router(shared.clone()), Gate::http(keys), bodies.clone(), payload_limit);
    let routes = observed(routes, telemetry, None);
    let http = Acceptor {
        name: "HTTP",
        // Browsers ask without a key whether they may send one.
        routes: match cors::layer(&cors) {
            Some(layer) => routes.layer(layer),
            None => routes,
        },
        tls,
        http2_only: false,
        connections_max,
        stall_limit,
        drain: drain.clone(),
        states: states.clone(),
    };
    let metrics = |listener| {
        let acceptor = Acceptor {
            name: "metrics",
            routes: http::limited(monitoring(shared), Gate::http(None), bodies, payload_limit),
            tls: None,
            http2_only: false,
            connections_max: METRICS_CONNECTIONS_MAX,
            stall_limit,
            drain,
            states,
        };
        (acceptor, listener)
    };
    Acceptors { grpc: (grpc, listeners.grpc), http: (http, listeners.http), metrics: listeners.metrics.map(metrics) }
}

/// Tells the health service how the model is.
async fn report_health(service: Service, reporter: HealthReporter) {
    reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
    let mut states = WatchStream::new(service.state_changes());
    while let Some(state) = states.next().await {
        let serving = match state.name {
            StateName::Ready => ServingStatus::Serving,
            _ => ServingStatus::NotServing,
        };
        for name in HEALTH_NAMES {
            reporter.set_service_status(name, serving).await;
        }
    }
}
