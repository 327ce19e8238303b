//! From the syntax of an entry to its [`Program`].
//!
//! Device functions are inlined at their calls, with fresh registers and labels, so that the executor needs no call stack.
//! Each of the submodules lowers one family of instructions.

mod arithmetic;
mod control;
mod convert;
mod memory;
mod symbols;
mod warp;

use super::PtxError;
use super::program::{Guard, Inst, Op, Param, Program, Row};
use super::syntax::{Function, Instruction, Module, Operand, Space, Statement, Variable};
use super::types::Ty;
use std::collections::HashMap;
use symbols::{Scope, Symbol};

/// The address of every variable in global memory.
pub type Globals = HashMap<String, u64>;

/// Why an instruction cannot be lowered; empty if it is not known at all.
type Lowered<T> = Result<T, String>;

/// Lowers the entry `name`; none if there is no such entry.
pub fn lower_entry(module: &Module, name: &str, globals: &Globals) -> Option<Result<Program, PtxError>> {
    let entry = module.functions.iter().find(|function| function.is_entry && function.name == name)?;
    Some(Lower::new(module, globals, entry).entry(entry))
}

/// State of the lowering of one entry.
struct Lower<'a> {
    module: &'a Module,
    globals: &'a Globals,
    program: Program,
    constants: HashMap<(u64, bool), Row>,
    /// Open scopes, the outermost first.
    scopes: Vec<Scope>,
    scopes_made: usize,
    /// Where each label of each scope is.
    labels: HashMap<(usize, String), u32>,
    /// Branches to be resolved: the instruction, which of its targets, the open scopes, the label.
    branches: Vec<(usize, usize, Vec<usize>, String)>,
    targets: HashMap<(usize, String), Vec<String>>,
    /// The functions that are being inlined, the entry first.
    calls: Vec<String>,
    /// Of the instruction that is being lowered.
    guard: Option<Guard>,
    text: String,
}

impl<'a> Lower<'a> {
    fn new(module: &'a Module, globals: &'a Globals, entry: &Function) -> Self {
        let program = Program {
            name: entry.name.clone(),
            params: Vec::new(),
            code: Vec::new(),
            texts: Vec::new(),
            rows: 0,
            preds: 0,
            constants: Vec::new(),
            specials: Vec::new(),
            shared_bytes: 0,
            local_bytes: 0,
            threads_max: entry.threads_max,
        };
        Self {
            module,
            globals,
            program,
            constants: HashMap::new(),
            scopes: Vec::new(),
            scopes_made: 0,
            labels: HashMap::new(),
            branches: Vec::new(),
            targets: HashMap::new(),
            calls: Vec::new(),
            guard: None,
            text: String::new(),
        }
    }

    fn entry(mut self, entry: &Function) -> Result<Program, PtxError> {
        self.open_scope();
        for variable in &self.module.shared {
            if variable.count > 0 {
                self.declare(variable);
            }
        }
        self.calls.push(entry.name.clone());
        self.open_scope();
        let mut offset = 0usize;
        for param in &entry.params {
            offset = offset.next_multiple_of(param.align);
            self.bind(&param.name, Symbol::Param(offset));
            self.program.params.push(Param { offset, bytes: param.bytes() });
            offset += param.bytes();
        }
        // The dynamic part starts where the static part ends, so that one is laid out first.
        self.declare_shared_of(&entry.body);
        let called: Vec<&Function> = self.module.functions.iter().filter(|function| !function.is_entry).collect();
        for function in called {
            self.declare_shared_of(&function.body);
        }
        self.program.shared_bytes = self.program.shared_bytes.next_multiple_of(128);
        for variable in self.module.shared.iter().filter(|variable| variable.count == 0) {
            self.scopes[0].bind(&variable.name, Symbol::Shared(self.program.shared_bytes));
        }
        self.body(&entry.body)?;
        self.text = "the end of the function".to_owned();
        self.emit(Op::Exit);
        self.resolve_branches()?;
        self.program.local_bytes = self.program.local_bytes.next_multiple_of(16);
        Ok(self.program)
    }

    fn declare_shared_of(&mut self, body: &[Statement]) {
        for statement in body {
            if let Statement::Variable(variable) = statement
                && variable.space == Space::Shared
            {
                self.declare(variable);
            }
        }
    }

    /// Gives a variable its place. Shared memory is the whole block's, so its names are bound outermost.
    fn declare(&mut self, variable: &Variable) {
        let space = match variable.space {
            Space::Shared => &mut self.program.shared_bytes,
            _ => &mut self.program.local_bytes,
        };
        let offset = space.next_multiple_of(variable.align.max(1));
        *space = offset + variable.bytes();
        if variable.space == Space::Shared {
            self.scopes[0].bind(&variable.name, Symbol::Shared(offset));
        } else {
            self.bind(&variable.name, Symbol::Local(offset));
        }
    }

    fn body(&mut self, body: &[Statement]) -> Result<(), PtxError> {
        for statement in body {
            if let Statement::Targets { name, labels } = statement {
                self.targets.insert((self.calls.len(), name.clone()), labels.clone());
            }
        }
        for statement in body {
            match statement {
                Statement::Open => self.open_scope(),
                Statement::Close => self.close_scope(),
                Statement::Label(name) => self.place_label(name),
                Statement::Registers { ty, names } => names.iter().for_each(|name| self.declare_register(name, *ty)),
                Statement::Variable(variable) if variable.space == Space::Shared => {}
                Statement::Variable(variable) => self.declare(variable),
                Statement::Targets { .. } => {}
                Statement::Instruction(instruction) => self.instruction(instruction)?,
            }
        }
        Ok(())
    }

    fn instruction(&mut self, instruction: &Instruction) -> Result<(), PtxError> {
        self.text.clone_from(&instruction.text);
        let lowered = self.guard_of(instruction).and_then(|guard| {
            self.guard = guard;
            self.dispatch(instruction)
        });
        match lowered {
            Ok(Some(callee)) => self.call(instruction, &callee),
            Ok(None) => Ok(()),
            Err(why) => Err(self.unsupported(&instruction.text, &why)),
        }
    }

    fn unsupported(&self, text: &str, why: &str) -> PtxError {
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        PtxError::Unsupported { function: self.calls.join("/"), text: text.to_owned(), why }
    }

    /// Gives the name of the function if it is a call.
    fn dispatch(&mut self, it: &Instruction) -> Lowered<Option<String>> {
        match it.words[0].as_str() {
            "call" => return self.callee(it).map(Some),
            "add" | "sub" | "mul" | "div" | "rem" | "min" | "max" | "and" | "or" | "xor" | "shl" | "shr" => {
                self.binary(it)?;
            }
            "neg" | "abs" | "not" | "sqrt" | "rsqrt" | "rcp" | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "popc"
            | "clz" | "brev" | "bfind" | "cnot" => self.unary(it)?,
            "mad" | "fma" | "lop3" | "bfe" | "bfi" | "prmt" | "shf" | "mad24" => self.ternary(it)?,
            "setp" | "selp" | "set" => self.compare(it)?,
            "mov" => self.mov(it)?,
            "cvt" => self.convert(it)?,
            "cvta" => self.convert_address(it)?,
            "ld" | "ldu" => self.load(it)?,
            "st" => self.store(it)?,
            "atom" | "red" => self.atomic(it)?,
            "cp" => self.copy_async(it)?,
            "createpolicy" => self.policy(it)?,
            "ldmatrix" => self.load_matrix(it)?,
            "mma" => self.mma(it)?,
            "shfl" | "vote" | "match" | "redux" | "activemask" => self.across_lanes(it)?,
            "bar" | "barrier" => self.barrier(it)?,
            "membar" | "fence" => self.emit(Op::Fence),
            "nanosleep" => self.emit(Op::Sleep),
            "prefetch" | "prefetchu" | "pragma" | "applypriority" | "discard" | "isspacep" => self.nothing(it)?,
            "bra" => self.branch(it)?,
            "brx" => self.branch_indexed(it)?,
            "ret" => self.ret(),
            "exit" => self.emit(Op::Exit),
            "trap" => self.emit(Op::Trap { why: "trap" }),
            _ => return Err(String::new()),
        }
        Ok(None)
    }

    fn nothing(&mut self, it: &Instruction) -> Lowered<()> {
        if it.words[0] == "isspacep" {
            return Err(String::new());
        }
        self.emit(Op::Nop);
        Ok(())
    }

    fn emit(&mut self, op: Op) {
        self.program.code.push(Inst { guard: self.guard, op });
        self.program.texts.push(self.text.clone());
    }

    fn place_label(&mut self, name: &str) {
        let scope = self.scopes.last().expect("a body has a scope").id;
        self.labels.insert((scope, name.to_owned()), self.program.code.len() as u32);
    }

    fn resolve_branches(&mut self) -> Result<(), PtxError> {
        for (at, nth, scopes, label) in std::mem::take(&mut self.branches) {
            let found = scopes.iter().rev().find_map(|scope| self.labels.get(&(*scope, label.clone())));
            let Some(&pc) = found else {
                return Err(self.unsupported(&self.program.texts[at], &format!("there is no label `{label}`")));
            };
            match &mut self.program.code[at].op {
                Op::Branch { target } => *target = pc,
                Op::BranchIndexed { targets, .. } => targets[nth] = pc,
                other => unreachable!("{other:?} is no branch"),
            }
        }
        Ok(())
    }

    /// Inlines a function: its parameters and results are the caller's `.param` variables.
    fn call(&mut self, it: &Instruction, callee: &str) -> Result<(), PtxError> {
        let module = self.module;
        let Some(function) = module.functions.iter().find(|function| function.name == *callee) else {
            return Err(self.unsupported(&it.text, "the function has no body"));
        };
        if self.calls.contains(&function.name) {
            return Err(self.unsupported(&it.text, "recursion"));
        }
        let lists: Vec<&Vec<Operand>> = it
            .operands
            .iter()
            .filter_map(|operand| if let Operand::List(list) = operand { Some(list) } else { None })
            .collect();
        let (results, arguments) = match (function.results.is_empty(), &lists[..]) {
            (_, [results, arguments]) => (*results, *arguments),
            (false, [results]) => (*results, &Vec::new()),
            (true, [arguments]) => (&Vec::new(), *arguments),
            _ => (&Vec::new(), &Vec::new()),
        };
        let outer = self.guard.take();
        if outer.is_some() {
            return Err(self.unsupported(&it.text, "a call with a predicate"));
        }
        let mut bindings = Vec::new();
        let formal = function.results.iter().chain(&function.params);
        for (variable, actual) in formal.zip(results.iter().chain(arguments)) {
            match self.symbol_of(actual) {
                Ok(symbol @ Symbol::Local(_)) => bindings.push((variable.name.clone(), symbol)),
                _ => return Err(self.unsupported(&it.text, "an argument that is no .param variable")),
            }
        }
        self.calls.push(function.name.clone());
        self.open_scope();
        let scope = self.scopes.last_mut().expect("it was just opened");
        scope.is_call = true;
        bindings.iter().for_each(|(name, symbol)| scope.bind(name, *symbol));
        self.body(&function.body)?;
        self.place_label(symbols::RETURN_LABEL);
        self.close_scope();
        self.calls.pop();
        self.text.clone_from(&it.text);
        self.emit(Op::Nop);
        Ok(())
    }
}

/// The type suffix of an instruction that has one.
fn only_type(it: &Instruction) -> Lowered<Ty> {
    it.types().first().copied().ok_or_else(|| "no type".to_owned())
}

fn operands<const N: usize>(it: &Instruction) -> Lowered<[&Operand; N]> {
    let list: Vec<&Operand> = it.operands.iter().collect();
    <[&Operand; N]>::try_from(list).map_err(|list| format!("{N} operands are expected, there are {}", list.len()))
}
