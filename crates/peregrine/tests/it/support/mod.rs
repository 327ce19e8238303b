//! What all tests use.
//!
//! A program is started with a mark in its environment, which its workers inherit. So all of its processes can be found,
//! also orphans, and nothing is ever taken for one that another test has started.

mod client;
mod family;
mod figures;
mod http2;
mod models;
mod program;
mod server;

pub use client::{Client, greedy, ids, next_message, request, text_of};
pub use family::Process;
pub use figures::{memory, open_files};
pub use http2::Http2;
pub use models::{SlowModel, demo_model};
pub use program::{Ended, Program, Running};
pub use server::{HttpAnswer, Server};
pub use testkit::goldens::model_dir;

use std::time::Duration;

/// How long anything that is waited for may take. Only a hang takes that long.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits for something that must happen.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {} s", LIMIT.as_secs()),
    }
}

/// Waits for something that tells nobody when it happens: looks until `look` sees it.
pub async fn seen<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(value) = look() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}
