//! A PTX module as it is written: statements, with names unresolved.

use super::types::Ty;

/// A whole module.
#[derive(Debug, Default)]
pub struct Module {
    /// Variables in global and constant memory.
    pub globals: Vec<Variable>,
    /// Shared memory declared outside of functions, the dynamic part (`extern`, with no size) among it.
    pub shared: Vec<Variable>,
    /// Entries and device functions.
    pub functions: Vec<Function>,
}

/// The state space of a variable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A variable in memory.
#[derive(Clone, Debug)]
pub struct Variable {
    pub space: Space,
    pub name: String,
    pub ty: Ty,
    pub align: usize,
    /// Elements; zero where the size is open (`extern .shared x[]`).
    pub count: usize,
    /// The first elements, as bits; the rest are zero.
    pub init: Vec<u64>,
}

impl Variable {
    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.ty.bytes() * self.count
    }
}

/// An entry or a device function.
#[derive(Debug)]
pub struct Function {
    pub name: String,
    pub is_entry: bool,
    pub results: Vec<Variable>,
    pub params: Vec<Variable>,
    /// `.maxntid`, as the product of its dimensions; zero if it is not given.
    pub threads_max: u32,
    pub body: Vec<Statement>,
}

/// One statement of a body.
#[derive(Debug)]
pub enum Statement {
    Open,
    Close,
    Label(String),
    Registers {
        ty: Ty,
        names: Vec<String>,
    },
    Variable(Variable),
    /// `NAME: .branchtargets A, B;`
    Targets {
        name: String,
        labels: Vec<String>,
    },
    Instruction(Instruction),
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// The predicate, and whether it is negated.
    pub guard: Option<(String, bool)>,
    /// The mnemonic and its suffixes, cut at the dots.
    pub words: Vec<String>,
    pub operands: Vec<Operand>,
    /// As written, with its blanks made one.
    pub text: String,
}

/// An operand.
#[derive(Clone, PartialEq, Debug)]
pub enum Operand {
    Name(String),
    /// A negated predicate.
    Not(String),
    /// Bits of an integer (two's complement), or of a float with how wide it is written.
    Int(u64),
    F32(u32),
    F64(u64),
    Vector(Vec<Operand>),
    /// `[base+offset]`
    Address {
        base: Box<Operand>,
        offset: i64,
    },
    /// `d|p`
    Pair(String, String),
    /// The arguments or results of a call.
    List(Vec<Operand>),
}

impl Instruction {
    /// Whether a suffix is there.
    pub fn has(&self, suffix: &str) -> bool {
        self.words[1..].iter().any(|word| word == suffix)
    }

    /// The type suffixes, in order.
    pub fn types(&self) -> Vec<Ty> {
        self.words[1..].iter().filter_map(|word| Ty::of(word)).collect()
    }
}
