//! `generation_config.json`, of which only the ends of a text are read: sampling parameters come with each request.

use crate::ConfigError;
use crate::fields::Fields;

/// The tokens that `eos_token_id` names in the text of a `generation_config.json`: one, or a list of them. Empty if it is
/// absent, null or an empty list.
///
/// # Errors
///
/// [`ConfigError`], naming the field.
pub fn generation_eos(json: &[u8]) -> Result<Vec<u32>, ConfigError> {
    Ok(Fields::parse(json)?.token_ids("eos_token_id")?.unwrap_or_default())
}
