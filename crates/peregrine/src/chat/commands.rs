//! What has been said, and the commands that change it.

use super::settings::{self, Settings};
use anyhow::{Context, Result, bail, ensure};
use api::Priority;
use serde_json::{Value, json};
use server::dialects::grpc::convert::request_to_pb;
use server::dialects::tgi::{GenerateRequest, Inputs, Parameters};
use wire::generation as pb;

/// A conversation.
pub struct Session {
    settings: Settings,
    system: Option<String>,
    /// Questions with their answers, the oldest first.
    turns: Vec<(String, String)>,
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// To be printed.
    Say(String),
    /// To be answered.
    Ask(String),
    /// The end.
    End,
}

/// A command.
struct Command {
    name: &'static str,
    /// What follows its name.
    value: &'static str,
    help: &'static str,
    run: fn(&mut Session, &str) -> Result<Action>,
}

const COMMANDS: &[Command] = &[
    Command { name: "help", value: "", help: "List the commands.", run: |_, _| Ok(Action::Say(help())) },
    Command { name: "set", value: "[NAME VALUE]", help: "Show what is set, or set a parameter.", run: Session::set },
    Command { name: "system", value: "[TEXT]", help: "Show or set the system message.", run: Session::set_system },
    Command { name: "retry", value: "", help: "Answer the last question again.", run: |session, _| session.retry() },
    Command { name: "undo", value: "", help: "Forget the last question.", run: |session, _| session.undo() },
    Command { name: "clear", value: "", help: "Forget all questions.", run: |session, _| session.clear() },
    Command {
        name: "save",
        value: "FILE",
        help: "Write the conversation as JSON.",
        run: |session, to| session.save(to),
    },
    Command { name: "exit", value: "", help: "End, as ctrl-d does.", run: |_, _| Ok(Action::End) },
];

/// The names of all commands and parameters, as they are typed.
pub fn names() -> Vec<String> {
    let parameters = settings::all().into_iter().filter_map(|parameter| parameter.get_long().map(str::to_owned));
    COMMANDS.iter().map(|command| command.name.to_owned()).chain(parameters).map(|name| format!("/{name}")).collect()
}

fn help() -> String {
    let commands =
        COMMANDS.iter().map(|command| (format!("{} {}", command.name, command.value), command.help.to_owned()));
    let parameters = settings::all();
    let parameters = parameters.iter().map(|parameter| (settings::usage(parameter), settings::about(parameter)));
    let line = |(usage, about): (String, String)| format!("  /{usage:<30} {about}\n");
    let (commands, parameters): (String, String) = (commands.map(line).collect(), parameters.map(line).collect());
    format!(
        "{commands}\nParameters. Without a value: what it is; off: as if it were not set.\n\n{parameters}\nA line that begins with \
         two slashes is a message that begins with one.\n"
    )
}

impl Session {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// The first rule that the parameters break.
    pub fn new(system: Option<String>, parameters: &Parameters) -> Result<Self> {
        Ok(Self { settings: Settings::new(parameters)?, system, turns: Vec::new() })
    }

    /// What a line asks for: it is a command, or a message.
    ///
    /// # Errors
    ///
    /// If there is no such command, or it cannot be done.
    pub fn take(&mut self, line: &str) -> Result<Action> {
        let Some(command) = line.strip_prefix('/') else {
            return Ok(if line.trim().is_empty() { Action::Say(String::new()) } else { Action::Ask(line.to_owned()) });
        };
        if command.starts_with('/') {
            return Ok(Action::Ask(command.to_owned()));
        }
        let (name, value) = split(command);
        if let Some(command) = COMMANDS.iter().find(|command| command.name == name) {
            ensure!(value.is_empty() || !command.value.is_empty(), "/{name} takes no value. Given: {value}");
            return (command.run)(self, value);
        }
        self.set_parameter(name, value)
    }

    /// The request for an answer.
    pub fn request(&self, question: &str) -> pb::ChatRequest {
        let (inputs, parameters) = (Inputs::Text(String::new()), self.settings.parameters());
        // The only place that knows the names of both sides.
        let request = request_to_pb(GenerateRequest { inputs, parameters, stream: true, priority: Priority::Normal });
        let message = |(role, content): (&str, &str)| pb::ChatMessage {
            role: role.to_owned(),
            content: content.to_owned(),
            extra: String::new(),
        };
        let messages = self.messages().chain([("user", question)]).map(message).collect();
        pb::ChatRequest { messages, parameters: request.parameters, ..Default::default() }
    }

    /// A question has been answered.
    pub fn keep(&mut self, question: String, answer: String) {
        self.turns.push((question, answer));
    }

    /// Roles and what they have said.
    fn messages(&self) -> impl Iterator<Item = (&str, &str)> {
        let turns = self.turns.iter().flat_map(|(question, answer)| [("user", &**question), ("assistant", &**answer)]);
        self.system.iter().map(|system| ("system", &**system)).chain(turns)
    }

    fn set(&mut self, what: &str) -> Result<Action> {
        if !what.is_empty() {
            let (name, value) = split(what);
            return self.set_parameter(name, value);
        }
        let set = self.settings.values().iter().map(|(name, value)| format!("{name}: {value}\n"));
        let set: String = set.collect();
        Ok(Action::Say(if set.is_empty() { "Nothing is set.\n".to_owned() } else { set }))
    }

    fn set_parameter(&mut self, name: &str, value: &str) -> Result<Action> {
        let parameter =
            settings::find(name).with_context(|| format!("there is no /{name}; /help lists what there is"))?;
        if !value.is_empty() {
            self.settings.set(&parameter, value)?;
        }
        Ok(Action::Say(if value.is_empty() { self.settings.show(&parameter) } else { String::new() }))
    }

    fn set_system(&mut self, text: &str) -> Result<Action> {
        match text {
            "" => return Ok(Action::Say(format!("{}\n", self.system.as_deref().unwrap_or("There is none.")))),
            "off" => self.system = None,
            text => self.system = Some(text.to_owned()),
        }
        Ok(Action::Say(String::new()))
    }

    fn retry(&mut self) -> Result<Action> {
        Ok(Action::Ask(self.pop()?))
    }

    fn undo(&mut self) -> Result<Action> {
        self.pop().map(|question| Action::Say(format!("Forgotten: {question}\n")))
    }

    fn pop(&mut self) -> Result<String> {
        self.turns.pop().map(|(question, _)| question).context("nothing has been answered yet")
    }

    fn clear(&mut self) -> Result<Action> {
        self.turns.clear();
        Ok(Action::Say(String::new()))
    }

    /// Writes what a request for the conversation would hold.
    fn save(&mut self, file: &str) -> Result<Action> {
        if file.is_empty() {
            bail!("/save needs the name of a file");
        }
        let messages = self.messages().map(|(role, content)| json!({"role": role, "content": content}));
        let messages: Vec<Value> = messages.collect();
        let saved = json!({"messages": messages, "parameters": self.settings.values()});
        let text = serde_json::to_string_pretty(&saved)? + "\n";
        std::fs::write(file, text).with_context(|| format!("/save {file}: cannot write there"))?;
        Ok(Action::Say(String::new()))
    }
}

/// The first word, and the rest.
fn split(text: &str) -> (&str, &str) {
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (first, rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let mut session = Session::new(None, &Parameters::default()).expect("defaults");
        session.keep("a".to_owned(), "b".to_owned());
        session
    }

    fn error(line: &str) -> String {
        session().take(line).expect_err(line).to_string()
    }

    #[test]
    fn lines_are_messages_or_commands() {
        let ask = |text: &str| Action::Ask(text.to_owned());
        let say = |text: &str| Action::Say(text.to_owned());
        for (line, action) in [
            ("Hello", ask("Hello")),
            ("//etc", ask("/etc")),
            ("  ", say("")),
            ("/exit", Action::End),
            ("/retry", ask("a")),
            ("/undo", say("Forgotten: a\n")),
            ("/set", say("Nothing is set.\n")),
            ("/system", say("There is none.\n")),
            ("/temperature 0.7", say("")),
            ("/set top_p 0.5", say("")),
            (
                "/top-p",
                say(
                    "top_p: not set. Sample from the most probable tokens that together have probability P; between 0 and 1\n",
                ),
            ),
        ] {
            assert_eq!(session().take(line).expect(line), action, "{line}");
        }
        assert_eq!(error("/nothing"), "there is no /nothing; /help lists what there is");
        assert_eq!(error("/set temperature -1"), "`temperature` must be strictly positive");
        assert_eq!(error("/clear all"), "/clear takes no value. Given: all");
        assert_eq!(error("/save"), "/save needs the name of a file");
        assert!(error("/save /nowhere/at/all").contains("/save /nowhere/at/all: cannot write there"));
    }

    #[test]
    fn a_request_has_all_that_was_said_and_set() {
        let mut session = session();
        for line in ["/system Be brief.", "/max-tokens 5", "/stop x", "/watermark on"] {
            assert_eq!(session.take(line).expect(line), Action::Say(String::new()));
        }
        let request = session.request("c");
        let messages: Vec<(&str, &str)> = request.messages.iter().map(|m| (&*m.role, &*m.content)).collect();
        assert_eq!(messages, [("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c")]);
        let parameters = request.parameters.expect("there are some");
        assert_eq!((parameters.max_new_tokens, parameters.watermark, parameters.stop.len()), (Some(5), Some(true), 1));
        for line in ["/clear", "/system off"] {
            session.take(line).expect(line);
        }
        assert_eq!(session.request("c").messages.len(), 1);
        assert!(session.take("/retry").is_err());
    }

    #[test]
    fn help_has_every_name() {
        let help = help();
        for name in names() {
            assert!(help.contains(&format!("  {name} ")), "{name}: {help}");
        }
    }
}
