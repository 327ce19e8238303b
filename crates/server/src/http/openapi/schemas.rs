//! Schemas of what no derived one describes.

use crate::dialects::openai::Prompts;
use crate::dialects::tgi::Inputs;
use api::FinishReason;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// [`FinishReason`], of a crate that knows no schemas.
pub(crate) struct FinishReasonName;

impl PartialSchema for FinishReasonName {
    fn schema() -> RefOr<Schema> {
        let names =
            [FinishReason::Length, FinishReason::EosToken, FinishReason::StopSequence].map(FinishReason::as_str);
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).into()
    }
}

impl ToSchema for FinishReasonName {}

impl PartialSchema for Prompts {
    fn schema() -> RefOr<Schema> {
        OneOfBuilder::new()
            .item(text())
            .item(ArrayBuilder::new().items(text()))
            .item(ids())
            .item(ArrayBuilder::new().items(ids()))
            .into()
    }
}

impl ToSchema for Prompts {}

impl PartialSchema for Inputs {
    fn schema() -> RefOr<Schema> {
        OneOfBuilder::new().item(text()).item(ids()).into()
    }
}

impl ToSchema for Inputs {}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn ids() -> ArrayBuilder {
    ArrayBuilder::new().items(u32::schema())
}
