//! The OpenAPI document of the HTTP routes, made from the types that they read and write, and a page that shows it.

mod document;
mod schemas;

pub(crate) use schemas::FinishReasonName;

use super::Shared;
use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use flate2::read::GzDecoder;
use std::io::Read;
use std::sync::{Arc, LazyLock};
use utoipa_swagger_ui::Config;

/// Where the document is: as in TGI, and as in vLLM.
const PLACES: [&str; 2] = ["/api-doc/openapi.json", "/openapi.json"];

/// What there is.
pub(crate) const ROUTES: &[&str] = &["GET /docs", "GET /openapi.json"];

/// The document and its page.
pub(crate) fn router() -> Router<Shared> {
    let mut routes = Router::new()
        .route("/docs", get(async || Redirect::permanent("/docs/")))
        .route("/docs/", get(async || page("index.html")))
        .route("/docs/{file}", get(async |Path(file): Path<String>| page(&file)));
    for place in PLACES {
        routes = routes.route(place, get(document));
    }
    routes
}

async fn document() -> Response {
    static DOCUMENT: LazyLock<String> =
        LazyLock::new(|| document::document().to_json().expect("the document has string keys"));
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

/// A file of the page. All of it is in this program, compressed.
fn page(file: &str) -> Response {
    static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| Arc::new(Config::from(PLACES[0])));
    let Ok(Some(found)) = utoipa_swagger_ui::serve(file, CONFIG.clone()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let mut bytes = Vec::new();
    if found.gzpipped {
        GzDecoder::new(&*found.bytes).read_to_end(&mut bytes).expect("it was compressed when the program was built");
    } else {
        bytes = found.bytes.into_owned();
    }
    ([(CONTENT_TYPE, found.content_type)], bytes).into_response()
}
