//! Conversations to prompts, as `apply_chat_template` of transformers makes them.

mod continuation;
mod date;
mod environment;
mod error;
mod filters;
mod json;
mod messages;
mod python;
mod repr;
mod source;
mod stored;
mod syntax;
mod value;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value, json};

use crate::special_tokens::SpecialTokens;
use continuation::Continuation;
use messages::{ContentForm, Form};
use source::{DEFAULT, Source, TOOL_USE};

pub use error::{ChatError, ChatTemplateError};

/// Bytes of a template. The longest that models come with have some 50,000.
pub const SOURCE_BYTES_MAX: usize = 256 << 10;
/// Bytes of a prompt.
pub const PROMPT_BYTES_MAX: usize = 4 << 20;
/// Steps of work that a rendering may take, for a conversation without a byte. A step is an instruction, or 64 bytes that
/// are written or copied, so this also bounds its memory.
pub const STEPS_BASE: u64 = 1 << 17;
/// Bytes of the conversation that add a step: a template may copy a message 32 times.
pub const BYTES_PER_STEP: u64 = 2;
/// Steps of a rendering at most.
pub const STEPS_MAX: u64 = 1 << 20;

/// Stack for the compiler, whose depth is that of the longest expression.
const COMPILER_STACK_BYTES: usize = 16 << 20;

/// Falcon-180B-chat's format, of its model card, for folders that have no template.
const FALCON: &str = include_str!("chat/falcon.jinja");
/// What follows an answer in that format.
const FALCON_STOP: &str = "\nUser:";

/// A conversation, and how it is to be rendered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// OpenAI's message objects, the oldest first.
    pub messages: Vec<Value>,
    /// JSON schemas of the tools that the model may call. An empty list counts as given.
    pub tools: Option<Vec<Value>>,
    /// Documents for templates that ground answers on them.
    pub documents: Option<Vec<Value>>,
    /// The name of one of the model's templates.
    pub template: Option<String>,
    /// Whether the prompt ends with the beginning of the assistant's message.
    pub add_generation_prompt: bool,
    /// Whether the prompt ends within the last message, for the model to go on with it.
    pub continue_final_message: bool,
    /// Further arguments of the template, such as `enable_thinking`.
    pub kwargs: Map<String, Value>,
    /// Seconds since 1970, UTC, for templates that print the date.
    pub unix_seconds: u64,
}

/// The chat templates of a model. Cheap to clone.
#[derive(Clone)]
pub struct ChatTemplate(Arc<Inner>);

struct Inner {
    /// Has the templates by name.
    environment: Environment<'static>,
    templates: Vec<Template>,
    special_tokens: Vec<(&'static str, String)>,
    stops: Vec<String>,
}

struct Template {
    name: String,
    /// Where it stands, for messages.
    place: String,
    form: Form,
    /// Whether it has the word `content`, and so may print a message.
    has_content: bool,
}

/// What a rendering cannot do.
enum Failure {
    Template(minijinja::Error),
    TooLong,
}

impl ChatTemplate {
    /// The templates of the model in `dir`: those in `chat_template.jinja` and `additional_chat_templates/*.jinja`; without
    /// these files, `chat_template` of tokenizer_config.json; without that, Falcon's own format.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or a template is not valid.
    pub fn open(dir: &Path) -> Result<Self, ChatTemplateError> {
        let (sources, special_tokens) = (source::read(dir)?, special_tokens(dir)?);
        if sources.is_empty() {
            let falcon =
                Source { name: DEFAULT.to_owned(), place: "Falcon's own format".to_owned(), text: FALCON.to_owned() };
            return Self::new(vec![falcon], special_tokens, vec![FALCON_STOP.to_owned()]);
        }
        Self::new(sources, special_tokens, Vec::new())
    }

    /// The template in `file`, in place of those of the model in `dir`, whose special tokens it has.
    ///
    /// # Errors
    ///
    /// As [`ChatTemplate::open`], or if `file` is not there.
    pub fn from_file(file: &Path, dir: &Path) -> Result<Self, ChatTemplateError> {
        Self::new(source::read_one(file)?, special_tokens(dir)?, Vec::new())
    }

    fn new(
        sources: Vec<Source>,
        special_tokens: Vec<(&'static str, String)>,
        stops: Vec<String>,
    ) -> Result<Self, ChatTemplateError> {
        let compiler = thread::Builder::new().name("chat-template".to_owned()).stack_size(COMPILER_STACK_BYTES);
        let compiled = thread::scope(|scope| Ok(compiler.spawn_scoped(scope, || compile(sources))?.join()));
        let (environment, templates) = match compiled {
            Ok(Ok(compiled)) => compiled?,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(source) => return Err(ChatTemplateError::Thread { source }),
        };
        let mut inner = Inner { environment, templates, special_tokens, stops };
        for at in 0..inner.templates.len() {
            inner.templates[at].form = inner.form(&inner.templates[at].name);
        }
        Ok(Self(Arc::new(inner)))
    }

    /// Texts that end an answer: what begins the user's next message in Falcon's own format; none for other templates, whose
    /// messages end with special tokens.
    #[must_use]
    pub fn stops(&self) -> &[String] {
        &self.0.stops
    }

    /// The prompt.
    ///
    /// # Errors
    ///
    /// If the conversation is not one, the template refuses it, or fails, or does more than the limits allow.
    pub fn render(&self, conversation: &Conversation) -> Result<String, ChatError> {
        let Conversation { add_generation_prompt, continue_final_message, .. } = *conversation;
        let template = self.0.choose(conversation)?;
        if add_generation_prompt && continue_final_message {
            return Err(ChatError::ContinueAndPrompt);
        }
        let mut messages = messages::prepare(&conversation.messages, template.form)?;
        let mut continuation = None;
        if continue_final_message {
            if !template.has_content {
                return Err(ChatError::ContinuationLost);
            }
            continuation = Some(Continuation::mark(&mut messages)?);
        }
        let (context, bytes) = self.0.context(messages, conversation)?;
        let steps = (STEPS_BASE + bytes as u64 / BYTES_PER_STEP).min(STEPS_MAX);
        let prompt = self.0.run(&template.name, context, steps).map_err(|failure| match failure {
            Failure::TooLong => ChatError::TooLong { bytes: PROMPT_BYTES_MAX },
            Failure::Template(error) => template.error(&error, steps),
        })?;
        match continuation {
            Some(continuation) => continuation.cut(prompt),
            None => Ok(prompt),
        }
    }
}

fn compile(sources: Vec<Source>) -> Result<(Environment<'static>, Vec<Template>), ChatTemplateError> {
    let mut environment = environment::new();
    let mut templates = Vec::new();
    for Source { name, place, text } in sources {
        let has_content = text.contains("content");
        let added = match syntax::for_minijinja(&text) {
            Ok(text) => {
                environment.add_template_owned(name.clone(), text).map_err(|error| environment::line_and_cause(&error))
            }
            Err(syntax::LongExpression { line }) => Err((
                line,
                format!("an expression of more than {} bytes besides its strings", syntax::EXPRESSION_BYTES_MAX),
            )),
        };
        added.map_err(|(line, cause)| ChatTemplateError::Syntax { place: place.clone(), line, cause })?;
        let form = Form { content: ContentForm::Either, argument_text: true };
        templates.push(Template { name, place, form, has_content });
    }
    Ok((environment, templates))
}

/// The special tokens of the model in `dir`, by their roles.
fn special_tokens(dir: &Path) -> Result<Vec<(&'static str, String)>, ChatTemplateError> {
    let tokens = SpecialTokens::read(dir)?;
    Ok(tokens.by_role().map(|(role, token)| (role, token.to_owned())).collect())
}

impl Template {
    fn error(&self, error: &minijinja::Error, steps: u64) -> ChatError {
        if error.kind() == ErrorKind::OutOfFuel {
            return ChatError::Work { steps };
        }
        if let Some(message) = environment::raised(error) {
            return ChatError::Refused { message };
        }
        let (line, cause) = environment::line_and_cause(error);
        ChatError::Failed { place: self.place.clone(), line, cause }
    }
}

impl Inner {
    /// The template for a conversation: the one that it names; else `tool_use`, if there are tools; else the default.
    fn choose(&self, conversation: &Conversation) -> Result<&Template, ChatError> {
        let named = |name: &str| self.templates.iter().find(|template| template.name == name);
        let known = || {
            let names: Vec<String> = self.templates.iter().map(|template| format!("`{}`", template.name)).collect();
            names.join(", ")
        };
        if let Some(name) = &conversation.template {
            return named(name).ok_or_else(|| ChatError::UnknownTemplate { name: name.clone(), known: known() });
        }
        let for_tools = conversation.tools.as_ref().and_then(|_| named(TOOL_USE));
        for_tools.or_else(|| named(DEFAULT)).ok_or_else(|| ChatError::NoDefault { known: known() })
    }

    /// The variables that a template sees, and the bytes that the conversation takes.
    fn context(
        &self,
        messages: Vec<Map<String, Value>>,
        conversation: &Conversation,
    ) -> Result<(minijinja::Value, usize), ChatError> {
        let unix_seconds = conversation.unix_seconds;
        let strftime_now = move |format: &str| date::strftime(unix_seconds, format);
        let list = |list: &Option<Vec<Value>>| list.clone().map_or(Value::Null, Value::Array);
        let fields = [
            ("messages", Value::Array(messages.into_iter().map(Value::Object).collect())),
            ("tools", list(&conversation.tools)),
            ("documents", list(&conversation.documents)),
            ("add_generation_prompt", Value::Bool(conversation.add_generation_prompt)),
        ];
        if let Some((name, _)) = fields.iter().find(|(name, _)| conversation.kwargs.contains_key(*name)) {
            return Err(ChatError::Reserved { name: (*name).to_owned() });
        }
        let mut bytes = 0;
        let mut variables = vec![("strftime_now", minijinja::Value::from_function(strftime_now))];
        variables.extend(self.special_tokens.iter().map(|(role, token)| (*role, minijinja::Value::from(&**token))));
        let kwargs = conversation.kwargs.iter().map(|(name, value)| (&**name, value));
        for (name, value) in kwargs.chain(fields.iter().map(|(name, value)| (*name, value))) {
            let (value, of_value) = value::from_json(value);
            bytes += of_value;
            variables.push((name, value));
        }
        Ok((minijinja::Value::from_pairs(variables), bytes))
    }

    fn run(&self, name: &str, context: minijinja::Value, steps: u64) -> Result<String, Failure> {
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(steps));
        let template = environment.get_template(name).map_err(Failure::Template)?;
        let mut prompt = Prompt::default();
        match template.render_captured_to(context, &mut prompt) {
            _ if prompt.is_too_long => Err(Failure::TooLong),
            Ok(_) => Ok(String::from_utf8(prompt.bytes).expect("templates write strings")),
            Err(error) => Err(Failure::Template(error)),
        }
    }

    /// What a template takes: it is shown messages in each form, and looked at what it makes of them.
    fn form(&self, name: &str) -> Form {
        const TEXT: &str = "What is the text of this message?";
        const ARGUMENTS: &str = r#"{"name": "its value"}"#;
        let prompt = |messages: Vec<Value>| {
            let messages = messages.into_iter().filter_map(|message| message.as_object().cloned()).collect();
            let conversation = Conversation { add_generation_prompt: true, ..Conversation::default() };
            let (context, _) = self.context(messages, &conversation).ok()?;
            self.run(name, context, STEPS_BASE).ok()
        };
        let parts = json!([{"type": "text", "text": TEXT}]);
        let of = |content: &Value| {
            prompt(vec![json!({"role": "user", "content": content})]).filter(|prompt| prompt.contains(TEXT))
        };
        let of_parts = of(&parts).filter(|prompt| !shows_the_part(prompt, TEXT));
        let content = match (of(&Value::from(TEXT)), of_parts) {
            (None, Some(_)) => ContentForm::Parts,
            (Some(_), Some(_)) => ContentForm::Either,
            (_, None) => ContentForm::String,
        };
        let text = if content == ContentForm::Parts { parts } else { Value::from(TEXT) };
        let call = json!({"id": "call00000", "type": "function", "function": {"name": "f", "arguments": ARGUMENTS}});
        let called = prompt(vec![
            json!({"role": "user", "content": text}),
            json!({"role": "assistant", "content": text, "tool_calls": [call]}),
        ]);
        Form { content, argument_text: called.is_some_and(|prompt| prompt.contains(ARGUMENTS)) }
    }
}

/// Whether a prompt has the part itself as Python or JSON prints it, so that its template does not know of parts.
fn shows_the_part(prompt: &str, text: &str) -> bool {
    ["'", "\""].iter().any(|quote| prompt.contains(&format!("{quote}text{quote}: {quote}{text}{quote}")))
}

/// A prompt that grows up to its limit.
#[derive(Default)]
struct Prompt {
    bytes: Vec<u8>,
    is_too_long: bool,
}

impl io::Write for Prompt {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > PROMPT_BYTES_MAX {
            self.is_too_long = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
