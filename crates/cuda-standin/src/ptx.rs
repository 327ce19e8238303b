//! PTX: from text to a [`Program`] that the executor runs.
//!
//! [`lexer`] cuts the text into tokens, [`parser`] gives a [`syntax::Module`] that knows statements but no meaning, and
//! [`lower`] turns an entry into a [`Program`]: operands become rows of a register file, immediates and special registers
//! among them, and device functions are inlined. What the executor does not know is an error here, with its text.

pub mod lexer;
pub mod lower;
pub mod parser;
pub mod program;
pub mod syntax;
pub mod types;

pub use lower::lower_entry;
pub use parser::parse;
pub use program::Program;

/// Why PTX cannot be run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum PtxError {
    /// The text is not PTX.
    #[error("line {line}: expected {expected}, found `{found}`")]
    Syntax {
        /// Of the text, from one.
        line: usize,
        expected: String,
        found: String,
    },
    /// An instruction, or a form of it, that the executor does not know.
    #[error("in `{function}`: not supported by the stand-in: `{text}`{why}")]
    Unsupported {
        function: String,
        text: String,
        /// What about it, if it is not the instruction itself.
        why: String,
    },
}
