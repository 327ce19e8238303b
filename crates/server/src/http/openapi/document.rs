//! The table of routes.

use crate::dialects::openai::{self, ChatRequest, CompletionRequest};
use crate::dialects::tgi::routes::StreamEvent;
use crate::dialects::tgi::{self, GenerateRequest, GenerateResponse, InfoResponse};
use crate::dialects::tgi::{
    ChatTokenizeResponse, DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse,
};
use std::collections::BTreeMap;
use utoipa::ToSchema;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{
    AllOfBuilder, ArrayBuilder, ComponentsBuilder, ObjectBuilder, OneOfBuilder, Schema, Type,
};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, InfoBuilder, OpenApi, OpenApiBuilder, Paths, Ref, RefOr, Required};

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const TEXT: &str = "text/plain";
const OPEN_METRICS: &str = "application/openmetrics-text";
const FRAMES: &str = "application/vnd.amazon.eventstream";

/// What a failed request may be answered with, in any dialect.
const FAILURES: [(u16, &str); 13] = [
    (400, "The body cannot be read, or a field breaks a rule."),
    (401, "The server asks for a key, and none of its own was sent."),
    (404, "There is no such thing."),
    (405, "The route has no such method."),
    (408, "The body took too long."),
    (413, "The body is too large."),
    (415, "The body is not said to be JSON."),
    (422, "A field breaks a rule."),
    (424, "The model failed."),
    (429, "Too many requests run or wait."),
    (431, "The headers are too large."),
    (500, "The server ended before the answer did."),
    (503, "The model takes no requests now."),
];

/// Which error a dialect answers with.
#[derive(Clone, Copy)]
enum Dialect {
    Tgi,
    OpenAi,
    /// Either, by the body.
    SageMaker,
    None,
}

/// A part of the document while it is made.
#[derive(Default)]
struct Draft {
    paths: Paths,
    schemas: BTreeMap<String, RefOr<Schema>>,
}

/// One route with one method.
struct Route {
    method: HttpMethod,
    path: &'static str,
    summary: &'static str,
    dialect: Dialect,
    body: Option<RefOr<Schema>>,
    /// What a good answer has, by its type.
    answers: Vec<(&'static str, Option<RefOr<Schema>>)>,
}

/// The whole document.
pub(super) fn document() -> OpenApi {
    let mut draft = Draft::default();
    draft.tgi();
    draft.openai();
    draft.sagemaker();
    draft.others();
    let info = InfoBuilder::new()
        .title("Peregrine")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Falcon language models, as clients of TGI, OpenAI and SageMaker ask for them."));
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let components = ComponentsBuilder::new().schemas_from_iter(draft.schemas).security_scheme("key", bearer).build();
    // Either: not every server asks for keys.
    let security = [SecurityRequirement::new("key", [""; 0]), SecurityRequirement::default()];
    let document = OpenApiBuilder::new().info(info).paths(draft.paths).components(Some(components));
    document.security(Some(security)).build()
}

impl Draft {
    fn tgi(&mut self) {
        let generate = self.schema::<GenerateRequest>();
        let whole = self.schema::<GenerateResponse>();
        self.schema::<StreamEvent>();
        let tokenize = (self.schema::<TokenizeRequest>(), self.schema::<TokenizeResponse>());
        let info = self.schema::<InfoResponse>();
        let list = list(whole.clone());
        let post = |path, summary, body, answers| Route {
            method: HttpMethod::Post,
            path,
            summary,
            dialect: Dialect::Tgi,
            body: Some(body),
            answers,
        };
        let events = (EVENTS, Some(event(&["StreamResponse"])));
        self.add(post("/", "Continue a prompt", generate.clone(), vec![(JSON, Some(list)), events.clone()]));
        self.add(post("/generate", "Continue a prompt", generate.clone(), vec![(JSON, Some(whole)), events.clone()]));
        self.add(post("/generate_stream", "Continue a prompt, token by token", generate, vec![events]));
        self.add(post("/tokenize", "Cut a text into tokens", tokenize.0, vec![(JSON, Some(tokenize.1))]));
        let text = (self.schema::<DetokenizeRequest>(), self.schema::<DetokenizeResponse>());
        self.add(post("/detokenize", "The text of tokens", text.0, vec![(JSON, Some(text.1))]));
        let chat = (self.schema::<ChatRequest>(), self.schema::<ChatTokenizeResponse>());
        let path = "/chat_tokenize";
        self.add(post(path, "The prompt of a conversation, and its tokens", chat.0, vec![(JSON, Some(chat.1))]));
        self.add(get("/info", "What runs, and within which limits", vec![(JSON, Some(info))]));
    }

    fn openai(&mut self) {
        let parameters = self.schema::<openai::Parameters>();
        let with = |own| RefOr::T(AllOfBuilder::new().item(parameters.clone()).item(own).into());
        let completion = with(self.schema::<CompletionRequest>());
        let chat = with(self.schema::<ChatRequest>());
        let completions = self.schema::<openai::Completion>();
        let message = self.schema::<openai::ChatCompletion>();
        self.schema::<openai::ChatChunk>();
        let (models, model) = (self.schema::<openai::ModelList>(), self.schema::<openai::Model>());
        let route = |method, path, summary, body, answers| Route {
            method,
            path,
            summary,
            dialect: Dialect::OpenAi,
            body,
            answers,
        };
        let answers = vec![(JSON, Some(completions)), (EVENTS, Some(event(&["Completion", "`[DONE]`"])))];
        let path = "/v1/completions";
        self.add(route(HttpMethod::Post, path, "Continue prompts", Some(completion), answers));
        let answers = vec![(JSON, Some(message)), (EVENTS, Some(event(&["ChatChunk", "`[DONE]`"])))];
        self.add(route(HttpMethod::Post, "/v1/chat/completions", "Continue a conversation", Some(chat), answers));
        self.add(route(HttpMethod::Get, "/v1/models", "The models", None, vec![(JSON, Some(models))]));
        self.add(route(HttpMethod::Get, "/v1/models/{id}", "A model", None, vec![(JSON, Some(model))]));
    }

    fn sagemaker(&mut self) {
        let list = list(self.schema::<GenerateResponse>());
        let answer = OneOfBuilder::new().item(list).item(self.schema::<openai::Completion>());
        let answer: Schema = answer.item(self.schema::<openai::ChatCompletion>()).into();
        let body = OneOfBuilder::new().item(self.schema::<GenerateRequest>()).item(self.schema::<ChatRequest>());
        let body: Schema = body.item(self.schema::<CompletionRequest>()).into();
        let whole = (JSON, Some(RefOr::T(answer)));
        let post = |path, summary, answers| Route {
            method: HttpMethod::Post,
            path,
            summary,
            dialect: Dialect::SageMaker,
            body: Some(RefOr::T(body.clone())),
            answers,
        };
        let events = (EVENTS, Some(event(&["StreamResponse", "Completion", "ChatChunk"])));
        self.add(post("/invocations", "What SageMaker asks of a container", vec![whole.clone(), events.clone()]));
        let path = "/endpoints/{name}/invocations";
        self.add(post(path, "SageMaker's InvokeEndpoint", vec![whole, events]));
        let path = "/endpoints/{name}/invocations-response-stream";
        self.add(post(path, "SageMaker's InvokeEndpointWithResponseStream", vec![(FRAMES, None)]));
        self.add(get("/ping", "Whether the model serves, for SageMaker", Vec::new()));
    }

    fn others(&mut self) {
        self.add(get("/health", "Whether the model serves", Vec::new()));
        self.add(get("/readyz", "The same", Vec::new()));
        self.add(get("/livez", "Whether the server goes on, also while the model does not serve", Vec::new()));
        // A type here would be a promise to all callers, and only browsers get the page.
        self.add(get("/", "The same; for browsers, a page", Vec::new()));
        self.add(get("/metrics", "Metrics, for Prometheus", vec![(TEXT, None), (OPEN_METRICS, None)]));
    }

    /// The schema of a type, by reference.
    fn schema<T: ToSchema>(&mut self) -> RefOr<Schema> {
        let mut all = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut all);
        self.schemas.extend(all);
        RefOr::Ref(Ref::from_schema_name(T::name()))
    }

    fn add(&mut self, route: Route) {
        let Route { method, path, summary, dialect, body, answers } = route;
        let mut good = ResponseBuilder::new().description("An answer.");
        for (kind, schema) in answers {
            good = good.content(kind, Content::new(schema));
        }
        let mut operation = OperationBuilder::new().summary(Some(summary)).tag(dialect.tag()).response("200", good);
        for name in path.split(['{', '}']).skip(1).step_by(2) {
            let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path);
            let parameter =
                parameter.required(Required::True).schema(Some(<String as utoipa::PartialSchema>::schema()));
            operation = operation.parameter(parameter);
        }
        if let Some(body) = body {
            let body = RequestBodyBuilder::new().content(JSON, Content::new(Some(body))).required(Some(Required::True));
            operation = operation.request_body(Some(body.build()));
        }
        for (status, description) in FAILURES {
            let mut failure = ResponseBuilder::new().description(description);
            if let Some(error) = self.error(dialect) {
                failure = failure.content(JSON, Content::new(Some(error)));
            }
            operation = operation.response(status.to_string(), failure);
        }
        self.paths.add_path_operation(path, vec![method], operation);
    }

    fn error(&mut self, dialect: Dialect) -> Option<RefOr<Schema>> {
        match dialect {
            Dialect::Tgi | Dialect::None => Some(self.schema::<tgi::ErrorBody>()),
            Dialect::OpenAi => Some(self.schema::<openai::ErrorBody>()),
            // By the body, and SageMaker's own.
            Dialect::SageMaker => None,
        }
    }
}

impl Dialect {
    fn tag(self) -> &'static str {
        match self {
            Self::Tgi => "TGI",
            Self::OpenAi => "OpenAI",
            Self::SageMaker => "SageMaker",
            Self::None => "State",
        }
    }
}

fn get(path: &'static str, summary: &'static str, answers: Vec<(&'static str, Option<RefOr<Schema>>)>) -> Route {
    Route { method: HttpMethod::Get, path, summary, dialect: Dialect::None, body: None, answers }
}

/// An event of a stream, of which each has one of these in JSON.
fn event(names: &[&str]) -> RefOr<Schema> {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let data = text().content_media_type(JSON).description(Some(format!("{} in JSON", names.join(" or "))));
    ObjectBuilder::new().property("event", text()).property("data", data).required("data").into()
}

fn list(item: RefOr<Schema>) -> RefOr<Schema> {
    RefOr::T(ArrayBuilder::new().items(item).into())
}
