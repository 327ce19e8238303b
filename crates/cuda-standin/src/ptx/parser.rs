//! From tokens to a [`Module`].

use super::PtxError;
use super::lexer::{Kind, Token, tokens};
use super::syntax::{Function, Instruction, Module, Operand, Space, Statement, Variable};
use super::types::Ty;

/// Parses a module.
pub fn parse(source: &str) -> Result<Module, PtxError> {
    let mut parser = Parser { source, tokens: tokens(source)?, at: 0 };
    let mut module = Module::default();
    while parser.peek().kind != Kind::End {
        parser.item(&mut module)?;
    }
    Ok(module)
}

/// Words before a declaration that change nothing here.
const LINKAGE: &[&str] = &[".visible", ".extern", ".weak", ".common"];

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens[self.at]
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.tokens[self.at];
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn accept(&mut self, text: &str) -> bool {
        let found = self.peek().text == text;
        if found {
            self.next();
        }
        found
    }

    fn error<T>(&self, expected: &str) -> Result<T, PtxError> {
        let token = self.peek();
        Err(PtxError::Syntax { line: token.line, expected: expected.to_owned(), found: token.text.to_owned() })
    }

    fn expect(&mut self, text: &str) -> Result<(), PtxError> {
        if self.accept(text) { Ok(()) } else { self.error(&format!("`{text}`")) }
    }

    fn word(&mut self) -> Result<&'a str, PtxError> {
        if self.peek().kind == Kind::Word { Ok(self.next().text) } else { self.error("a name") }
    }

    fn item(&mut self, module: &mut Module) -> Result<(), PtxError> {
        while LINKAGE.contains(&self.peek().text) {
            self.next();
        }
        let word = self.peek().text;
        match word {
            ".version" | ".target" => self.skip_directive(),
            ".address_size" | ".file" | ".alias" | ".pragma" => self.skip_directive(),
            ".section" => self.skip_braces()?,
            ".global" | ".const" | ".shared" => {
                let space = space_of(word).expect("one of the three");
                for variable in self.variables(space)? {
                    if space == Space::Shared { &mut module.shared } else { &mut module.globals }.push(variable);
                }
            }
            ".entry" | ".func" => {
                if let Some(function) = self.function()? {
                    module.functions.push(function);
                }
            }
            _ => return self.error("a directive"),
        }
        Ok(())
    }

    /// A directive that ends with its line, or with a semicolon on it.
    fn skip_directive(&mut self) {
        let line = self.peek().line;
        while self.peek().kind != Kind::End && self.peek().line == line {
            self.next();
        }
    }

    fn skip_braces(&mut self) -> Result<(), PtxError> {
        while self.peek().kind != Kind::End {
            if self.next().text == "}" {
                return Ok(());
            }
        }
        self.error("`}`")
    }

    /// `.SPACE .align N .TYPE NAME[COUNT] = {..}, NAME..;`
    fn variables(&mut self, space: Space) -> Result<Vec<Variable>, PtxError> {
        self.next();
        let (ty, align) = self.type_and_align()?;
        let mut variables = Vec::new();
        loop {
            variables.push(self.variable(space, ty, align)?);
            if !self.accept(",") {
                break;
            }
        }
        self.expect(";")?;
        Ok(variables)
    }

    /// The attributes of a declaration; `.ptr`, `.v4` and the like only matter to the compiler.
    fn type_and_align(&mut self) -> Result<(Ty, usize), PtxError> {
        let (mut ty, mut align, mut lanes) = (None, None, 1);
        while self.peek().text.starts_with('.') {
            match self.next().text {
                ".align" => align = Some(self.count()?),
                ".v2" => lanes = 2,
                ".v4" => lanes = 4,
                word => ty = ty.or(Ty::of(&word[1..])),
            }
        }
        let Some(ty) = ty.filter(|_| lanes == 1) else { return self.error("a type") };
        Ok((ty, align.unwrap_or(ty.bytes())))
    }

    fn variable(&mut self, space: Space, ty: Ty, align: usize) -> Result<Variable, PtxError> {
        let name = self.word()?.to_owned();
        let (mut count, mut init) = (1, Vec::new());
        while self.accept("[") {
            count *= if self.peek().text == "]" { 0 } else { self.count()? };
            self.expect("]")?;
        }
        if self.accept("=") {
            let braces = self.accept("{");
            loop {
                match self.operand()? {
                    Operand::Int(bits) | Operand::F64(bits) => init.push(bits),
                    Operand::F32(bits) => init.push(u64::from(bits)),
                    _ => return self.error("a number"),
                }
                if !braces || !self.accept(",") {
                    break;
                }
            }
            if braces {
                self.expect("}")?;
            }
        }
        Ok(Variable { space, name, ty, align, count, init })
    }

    fn count(&mut self) -> Result<usize, PtxError> {
        match number(self.peek().text) {
            Some(Operand::Int(count)) if count <= 1 << 40 => {
                self.next();
                Ok(count as usize)
            }
            _ => self.error("a count"),
        }
    }

    /// Gives none for a declaration with no body.
    fn function(&mut self) -> Result<Option<Function>, PtxError> {
        let is_entry = self.next().text == ".entry";
        let results = if self.peek().text == "(" { self.params()? } else { Vec::new() };
        let name = self.word()?.to_owned();
        let params = if self.peek().text == "(" { self.params()? } else { Vec::new() };
        let mut threads_max = 0;
        while self.peek().text.starts_with('.') {
            let directive = self.next().text;
            let mut product = 1;
            while self.peek().kind == Kind::Number {
                product *= self.count()? as u32;
                self.accept(",");
            }
            if directive == ".maxntid" {
                threads_max = product;
            }
        }
        if self.accept(";") {
            return Ok(None);
        }
        self.expect("{")?;
        let body = self.body()?;
        Ok(Some(Function { name, is_entry, results, params, threads_max, body }))
    }

    fn params(&mut self) -> Result<Vec<Variable>, PtxError> {
        self.expect("(")?;
        let mut params = Vec::new();
        while !self.accept(")") {
            let line = self.peek().line;
            let space = self.word()?;
            if space != ".param" && space != ".reg" {
                let found = space.to_owned();
                return Err(PtxError::Syntax { line, expected: "`.param`".to_owned(), found });
            }
            let (ty, align) = self.type_and_align()?;
            params.push(self.variable(Space::Param, ty, align)?);
            self.accept(",");
        }
        Ok(params)
    }

    fn body(&mut self) -> Result<Vec<Statement>, PtxError> {
        let (mut body, mut depth) = (Vec::new(), 1);
        loop {
            let token = self.peek();
            match token.text {
                "{" => {
                    self.next();
                    depth += 1;
                    body.push(Statement::Open);
                }
                "}" => {
                    self.next();
                    depth -= 1;
                    if depth == 0 {
                        return Ok(body);
                    }
                    body.push(Statement::Close);
                }
                ";" => {
                    self.next();
                }
                ".loc" | ".file" => self.skip_directive(),
                ".pragma" => {
                    self.next();
                    self.next();
                    self.expect(";")?;
                }
                ".reg" => body.push(self.registers()?),
                ".shared" | ".local" | ".param" => {
                    let space = space_of(token.text).expect("one of the three");
                    body.extend(self.variables(space)?.into_iter().map(Statement::Variable));
                }
                _ if token.kind == Kind::Word && self.tokens[self.at + 1].text == ":" => body.push(self.label()?),
                _ => body.push(Statement::Instruction(self.instruction()?)),
            }
        }
    }

    fn label(&mut self) -> Result<Statement, PtxError> {
        let name = self.word()?.to_owned();
        self.expect(":")?;
        if !self.accept(".branchtargets") {
            return Ok(Statement::Label(name));
        }
        let mut labels = vec![self.word()?.to_owned()];
        while self.accept(",") {
            labels.push(self.word()?.to_owned());
        }
        self.expect(";")?;
        Ok(Statement::Targets { name, labels })
    }

    /// `.reg .b32 %r<100>, x;`
    fn registers(&mut self) -> Result<Statement, PtxError> {
        self.next();
        let (ty, _) = self.type_and_align()?;
        let mut names = Vec::new();
        loop {
            let name = self.word()?;
            if self.accept("<") {
                let count = self.count()?;
                self.expect(">")?;
                names.extend((0..count).map(|index| format!("{name}{index}")));
            } else {
                names.push(name.to_owned());
            }
            if !self.accept(",") {
                break;
            }
        }
        self.expect(";")?;
        Ok(Statement::Registers { ty, names })
    }

    fn instruction(&mut self) -> Result<Instruction, PtxError> {
        let start = self.peek().start;
        let guard = if self.accept("@") {
            let negated = self.accept("!");
            Some((self.word()?.to_owned(), negated))
        } else {
            None
        };
        let words = self.word()?.split('.').map(str::to_owned).collect();
        let mut operands = Vec::new();
        while self.peek().text != ";" {
            operands.push(self.operand()?);
            if !self.accept(",") {
                break;
            }
        }
        let end = self.peek().start;
        self.expect(";")?;
        let text = self.source[start..end].split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Instruction { guard, words, operands, text })
    }

    fn operand(&mut self) -> Result<Operand, PtxError> {
        let token = self.next();
        Ok(match token.text {
            "{" => Operand::Vector(self.list("}")?),
            "(" => Operand::List(self.list(")")?),
            "[" => {
                let base = Box::new(self.operand()?);
                let mut offset = 0;
                while self.peek().text != "]" {
                    self.accept("+");
                    match self.operand()? {
                        Operand::Int(bits) => offset += bits as i64,
                        _ => return self.error("an offset"),
                    }
                }
                self.expect("]")?;
                Operand::Address { base, offset }
            }
            "!" => Operand::Not(self.word()?.to_owned()),
            "-" => match number(self.next().text) {
                Some(Operand::Int(bits)) => Operand::Int(bits.wrapping_neg()),
                _ => return self.error("an integer"),
            },
            text => match number(text) {
                Some(number) => number,
                None if token.kind == Kind::Word && self.accept("|") => {
                    Operand::Pair(text.to_owned(), self.word()?.to_owned())
                }
                None if token.kind == Kind::Word => Operand::Name(text.to_owned()),
                None => return self.error("an operand"),
            },
        })
    }

    fn list(&mut self, end: &str) -> Result<Vec<Operand>, PtxError> {
        let mut list = Vec::new();
        while !self.accept(end) {
            list.push(self.operand()?);
            self.accept(",");
        }
        Ok(list)
    }
}

fn space_of(directive: &str) -> Option<Space> {
    Some(match directive {
        ".global" => Space::Global,
        ".const" => Space::Const,
        ".shared" => Space::Shared,
        ".local" => Space::Local,
        ".param" => Space::Param,
        _ => return None,
    })
}

fn number(text: &str) -> Option<Operand> {
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches('u');
    Some(if let Some(hex) = lower.strip_prefix("0f") {
        Operand::F32(u32::from_str_radix(hex, 16).ok()?)
    } else if let Some(hex) = lower.strip_prefix("0d") {
        Operand::F64(u64::from_str_radix(hex, 16).ok()?)
    } else if let Some(hex) = digits.strip_prefix("0x") {
        Operand::Int(u64::from_str_radix(hex, 16).ok()?)
    } else if let Some(binary) = digits.strip_prefix("0b") {
        Operand::Int(u64::from_str_radix(binary, 2).ok()?)
    } else if digits.len() > 1 && digits.starts_with('0') && !digits.contains('.') {
        Operand::Int(u64::from_str_radix(&digits[1..], 8).ok()?)
    } else if digits.contains('.') {
        Operand::F64(digits.parse::<f64>().ok()?.to_bits())
    } else {
        Operand::Int(digits.parse().ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = r"
.version 8.2
.target sm_80
.address_size 64
.global .align 8 .b8 table[8] = {1, 2, 0xff};
.extern .shared .align 128 .b8 smem[];
.visible .entry k(
    .param .u64 k_param_0,
    .param .align 4 .b8 k_param_1[12]
)
.maxntid 128, 2, 1
{
    .reg .pred %p<2>;
    .reg .b32 %r<3>;
    ld.param.u64 %rd1, [k_param_0+-8];
$L1:
    @!%p1 bra $L1;
    { .reg .b32 t; mov.b32 t, {%r1, %r2}; }
    shfl.sync.bfly.b32 %r1|%p1, %r2, 16, 31, -1;
    ret;
}
";

    #[test]
    fn a_module_is_parsed() {
        let module = parse(MODULE).unwrap();
        assert_eq!(module.globals[0].init, [1, 2, 255]);
        assert_eq!((module.shared[0].count, module.shared[0].align), (0, 128));
        let function = &module.functions[0];
        assert!(function.is_entry && function.name == "k" && function.threads_max == 256);
        assert_eq!(function.params[1].bytes(), 12);
        let instructions: Vec<&Instruction> = function
            .body
            .iter()
            .filter_map(|statement| if let Statement::Instruction(it) = statement { Some(it) } else { None })
            .collect();
        let base = Box::new(Operand::Name("k_param_0".to_owned()));
        assert_eq!(instructions[0].operands[1], Operand::Address { base, offset: -8 });
        assert_eq!(instructions[1].guard, Some(("%p1".to_owned(), true)));
        assert_eq!(instructions[3].operands[0], Operand::Pair("%r1".to_owned(), "%p1".to_owned()));
        assert_eq!(instructions[3].operands[4], Operand::Int(u64::MAX));
        assert_eq!(instructions[2].text, "mov.b32 t, {%r1, %r2}");
    }

    #[test]
    fn errors_name_the_line() {
        let error = parse(".version 8.2\n.entry k()\n{\n mov.u32 %r1 %r2;\n}").unwrap_err();
        assert_eq!(error.to_string(), "line 4: expected `;`, found `%r2`");
    }

    #[test]
    fn numbers_have_their_forms() {
        for (text, expected) in [
            ("0f3F800000", Operand::F32(0x3f80_0000)),
            ("0d3FF0000000000000", Operand::F64(1f64.to_bits())),
            ("0xFFU", Operand::Int(255)),
            ("017", Operand::Int(15)),
            ("0", Operand::Int(0)),
        ] {
            assert_eq!(number(text), Some(expected));
        }
    }
}
