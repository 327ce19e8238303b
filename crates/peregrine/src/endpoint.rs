//! Who answers: a server that runs, or workers started for this call.

use crate::client::{self, Client};
use crate::engine_args::{EngineArgs, ranks};
use crate::progress;
use crate::signals::Signals;
use anyhow::{Result, bail};
use clap::Args;
use coordinator::Status;
use runtime::Engine;
use std::path::PathBuf;
use std::process::ExitCode;

/// Who answers.
#[derive(Args, Debug)]
pub struct EndpointArgs {
    /// A server to ask, as HOST:PORT, http:// or https://, instead of workers started for this call.
    #[arg(long, value_name = "ADDR", conflicts_with_all = EngineArgs::ids(), conflicts_with = "tensor_parallel")]
    server: Option<String>,
    /// File of certificates in PEM: the authorities that are trusted to know the server, in place of the system's.
    #[arg(long, value_name = "FILE", requires = "server")]
    ca: Option<PathBuf>,
    /// File whose first key is sent to the server.
    #[arg(long, value_name = "FILE", requires = "server")]
    api_key_file: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
    /// Workers over which the model is sharded. If not given: those for which `peregrine shard` has cut it, or 2.
    #[arg(long, value_name = "N", value_parser = ranks())]
    tensor_parallel: Option<u32>,
}

impl EndpointArgs {
    /// Runs `work` with a client of whoever answers. Workers are ended afterwards. A signal that comes before ends the program;
    /// from then on `work` sees to them.
    pub async fn with_client(
        self,
        work: impl AsyncFnOnce(Client, &mut Signals) -> Result<ExitCode>,
    ) -> Result<ExitCode> {
        let mut signals = Signals::new()?;
        if let Some(addr) = &self.server {
            return tokio::select! {
                client = client::connect(addr, self.ca.as_deref(), self.api_key_file) => work(client?, &mut signals).await,
                code = signals.next() => Ok(ExitCode::from(code)),
            };
        }
        let options = tokio::select! {
            options = self.engine.options() => options?,
            code = signals.next() => return Ok(ExitCode::from(code)),
        };
        let Engine { coordinator, service } = Engine::start(&options, options.degree(self.tensor_parallel, 2)?)?;
        let loaded = async {
            progress::show(coordinator.status()).await;
            if let Status::Failed { reason } = &*coordinator.status().borrow() {
                bail!("{reason}");
            }
            client::embed(service).await
        };
        let client = tokio::select! {
            client = loaded => client.map(Ok),
            code = signals.next() => Ok(Err(code)),
        };
        let result = match client {
            Ok(Ok(client)) => work(client, &mut signals).await,
            Ok(Err(code)) => Ok(ExitCode::from(code)),
            Err(error) => Err(error),
        };
        coordinator.stop();
        coordinator.ended().await;
        result
    }
}
