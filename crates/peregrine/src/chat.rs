//! `peregrine chat`: a conversation in a terminal.

mod commands;
mod lines;
mod settings;

use crate::client::Client;
use crate::endpoint::EndpointArgs;
use crate::log;
use crate::output::print;
use crate::parameters::ParameterArgs;
use crate::signals::Signals;
use crate::stream::{Printer, status_error};
use crate::threads::start_runtime;
use anyhow::Result;
use clap::Args;
use commands::{Action, Session};
use lines::{Line, Lines};
use rustix::process::Signal;
use std::process::ExitCode;
use wire::generation as pb;

/// The exit code of a program that ctrl-c has ended.
const INTERRUPTED: u8 = 128 + Signal::INT.as_raw().unsigned_abs() as u8;

/// Arguments of `peregrine chat`.
#[derive(Args, Debug)]
pub struct ChatArgs {
    /// The system message, with which the conversation begins.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    parameters: ParameterArgs,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// Talks until there is no more to say.
pub fn run(args: ChatArgs) -> Result<ExitCode> {
    let ChatArgs { system, parameters, endpoint } = args;
    let session = Session::new(system, &parameters.into())?;
    let work = async |client, signals: &mut Signals| Chat::start(client, session).await?.run(signals).await;
    start_runtime()?.block_on(endpoint.with_client(work))
}

/// A conversation with somebody who answers.
struct Chat {
    client: Client,
    info: pb::GetInfoResponse,
    session: Session,
    lines: Lines,
}

/// How an answer ended.
enum Ended {
    /// By itself. Says how fast it came.
    Whole(String),
    /// By a signal, with its exit code.
    Stopped(u8),
}

impl Chat {
    async fn start(mut client: Client, session: Session) -> Result<Self> {
        let info = client.get_info(pb::GetInfoRequest {}).await.map_err(|status| status_error(&status))?.into_inner();
        Ok(Self { client, info, session, lines: Lines::start()? })
    }

    /// Until the lines or the program end. Where nobody sees an error, the exit code tells that there was one.
    async fn run(mut self, signals: &mut Signals) -> Result<ExitCode> {
        let mut end = ExitCode::SUCCESS;
        if self.lines.is_terminal() {
            let pb::GetInfoResponse { model_id, backend, max_total_tokens, .. } = &self.info;
            print(&format!(
                "{model_id} on {backend}, up to {max_total_tokens} tokens. /help lists commands, ctrl-c stops an answer, ctrl-d \
                 ends.\n"
            ))?;
        }
        loop {
            let line = tokio::select! {
                line = self.lines.next() => line?,
                code = signals.next() => return Ok(ExitCode::from(code)),
            };
            let action = match line {
                Line::End => return Ok(end),
                Line::Interrupted => continue,
                Line::Text(text) => self.session.take(&text),
            };
            let done = match action {
                Ok(Action::Say(text)) => print(&text).map(|()| None),
                Ok(Action::Ask(question)) => self.answer(question, signals).await,
                Ok(Action::End) => return Ok(end),
                Err(error) => Err(error),
            };
            match done {
                Ok(None) => {}
                Ok(Some(code)) => return Ok(code),
                Err(error) => {
                    log::say(&format!("error: {error:#}"));
                    log::flush();
                    if !self.lines.is_terminal() {
                        end = ExitCode::FAILURE;
                    }
                }
            }
        }
    }

    /// Prints the answer to a question, and keeps both. Returns the program's exit code if a signal asks for its end.
    async fn answer(&mut self, question: String, signals: &mut Signals) -> Result<Option<ExitCode>> {
        let request = self.session.request(&question);
        let stops = request.parameters.iter().flat_map(|parameters| &parameters.stop);
        let mut printer = Printer::new(&stops.chain(&self.info.chat_stop).cloned().collect::<Vec<_>>()).of_a_chat();
        let ended = tokio::select! {
            speed = printer.print(self.client.chat_stream(request)) => speed.map(Ended::Whole),
            code = signals.next() => Ok(Ended::Stopped(code)),
        };
        let answer = printer.into_shown();
        if ended.is_ok() || !answer.is_empty() {
            print("\n")?;
        }
        let is_terminal = self.lines.is_terminal();
        let remark = match ended? {
            Ended::Whole(speed) => speed,
            Ended::Stopped(INTERRUPTED) if is_terminal => "stopped".to_owned(),
            Ended::Stopped(code) => return Ok(Some(ExitCode::from(code))),
        };
        self.session.keep(question, answer);
        if is_terminal {
            print(&format!("({remark})\n"))?;
        }
        Ok(None)
    }
}
