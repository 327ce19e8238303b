//! What every benchmark of an engine needs.

use coordinator::{Coordinator, Status};

/// Why an engine that was started cannot be measured: what its workers said.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotReady(String);

/// Waits until an engine can be measured.
pub(crate) async fn ready(coordinator: &Coordinator) -> Result<(), NotReady> {
    let mut status = coordinator.status();
    let loaded = status.wait_for(|status| !matches!(status, Status::Loading { .. })).await;
    match &*loaded.map_err(|_| NotReady("the engine ended while the model was loading".to_owned()))? {
        Status::Failed { reason } => Err(NotReady(reason.clone())),
        _ => Ok(()),
    }
}
