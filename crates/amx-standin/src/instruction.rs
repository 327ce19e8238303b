//! The machine code of the instructions on tiles, and of the few that stand between them in loops.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: the prefixes, and the pages of the
//! instructions.

/// An instruction, with the general registers it takes by their numbers in machine code (`rax` is 0, `r15` is 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// `ldtilecfg [address]`
    Configure(Address),
    /// `tilerelease`
    Release,
    /// `tilezero`
    Zero(usize),
    /// `tileloadd tile, [address]`
    Load(usize, Address),
    /// `tilestored [address], tile`
    Store(usize, Address),
    /// `tdpbf16ps sums, left, right`
    Multiply {
        /// Where the products are added.
        sums: usize,
        /// Rows of pairs.
        left: usize,
        /// Pairs of rows.
        right: usize,
    },
    /// `prefetch [address]`
    Prefetch,
    /// `mov to, from`
    Move(usize, usize),
    /// `add to, value`
    Add(usize, Value),
    /// `sub to, value`
    Subtract(usize, Value),
    /// `dec register`
    Decrement(usize),
    /// `jnz`, relative to the next instruction.
    JumpUnlessZero(i32),
}

/// What is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A register's value.
    Register(usize),
    /// A number.
    Constant(i32),
}

/// `[base + index << shift + displacement]`. For a tile, the index is what lies between its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// A register.
    pub base: usize,
    /// A register, and by how much its value is shifted to the left.
    pub index: Option<(usize, u32)>,
    /// What is added.
    pub displacement: i32,
}

/// The instruction that `code` begins with, and its length; `None` if it is none of these.
pub fn decode(code: impl IntoIterator<Item = u8>) -> Option<(Instruction, usize)> {
    let mut code = Code { bytes: code.into_iter(), taken: 0 };
    let instruction = match code.byte()? {
        0xc4 => code.on_tiles()?,
        0x75 => Instruction::JumpUnlessZero(code.short()?),
        rex @ 0x40..0x50 => {
            let opcode = code.byte()?;
            code.general(rex, opcode)?
        }
        opcode => code.general(0x40, opcode)?,
    };
    Some((instruction, code.taken))
}

/// What follows an opcode: a register or what the opcode says, and a register or memory.
struct Form {
    mode: u8,
    reg: u8,
    rm: u8,
}

/// High bits of an address's registers, as the prefix has them.
#[derive(Clone, Copy)]
struct High {
    index: u8,
    base: u8,
}

struct Code<I> {
    bytes: I,
    taken: usize,
}

impl<I: Iterator<Item = u8>> Code<I> {
    fn byte(&mut self) -> Option<u8> {
        self.taken += 1;
        self.bytes.next()
    }

    /// A number of one byte.
    fn short(&mut self) -> Option<i32> {
        Some(i32::from(self.byte()? as i8))
    }

    /// A number of four.
    fn long(&mut self) -> Option<i32> {
        Some(i32::from_le_bytes([self.byte()?, self.byte()?, self.byte()?, self.byte()?]))
    }

    fn form(&mut self) -> Option<Form> {
        let byte = self.byte()?;
        Some(Form { mode: byte >> 6, reg: byte >> 3 & 7, rm: byte & 7 })
    }

    /// After the prefix of three bytes' first one.
    fn on_tiles(&mut self) -> Option<Instruction> {
        const NONE: u8 = 0;
        const F3: u8 = 2;
        const F2: u8 = 3;
        let (first, second) = (self.byte()?, self.byte()?);
        // The high bits of registers are stored inverted; R is of the tile's register, of which there are eight.
        let (r, map) = (first >> 7, first & 31);
        let high = High { index: !first >> 6 & 1, base: !first >> 5 & 1 };
        let (wide, register, long, kind) = (second >> 7, usize::from(!second >> 3 & 15), second >> 2 & 1, second & 3);
        if (r, map, wide, long) != (1, 2, 0, 0) {
            return None;
        }
        let (opcode, Form { mode, reg, rm }) = (self.byte()?, self.form()?);
        let tile = usize::from(reg);
        Some(match (kind, opcode, mode) {
            (NONE, 0x49, 3) if (reg, rm) == (0, 0) => Instruction::Release,
            (F2, 0x49, 3) if rm == 0 => Instruction::Zero(tile),
            (F3, 0x5c, 3) => Instruction::Multiply { sums: tile, left: rm.into(), right: register },
            (NONE, 0x49, 0..3) if reg == 0 => Instruction::Configure(self.address(mode, rm, high)?),
            (F2, 0x4b, 0..3) if rm == 4 => Instruction::Load(tile, self.address(mode, rm, high)?),
            (F3, 0x4b, 0..3) if rm == 4 => Instruction::Store(tile, self.address(mode, rm, high)?),
            _ => return None,
        })
    }

    /// After the opcode of an instruction on general registers, all of whose 64 bits it takes, or of another.
    fn general(&mut self, rex: u8, opcode: u8) -> Option<Instruction> {
        let high = High { index: rex >> 1 & 1, base: rex & 1 };
        if opcode == 0x0f {
            return match self.byte()? {
                0x85 => Some(Instruction::JumpUnlessZero(self.long()?)),
                0x18 => match self.form()? {
                    Form { mode: mode @ 0..3, reg: 0..4, rm } => {
                        self.address(mode, rm, high).map(|_| Instruction::Prefetch)
                    }
                    _ => None,
                },
                _ => None,
            };
        }
        if rex >> 3 & 1 == 0 {
            return None;
        }
        match opcode {
            0x05 => return Some(Instruction::Add(0, Value::Constant(self.long()?))),
            0x2d => return Some(Instruction::Subtract(0, Value::Constant(self.long()?))),
            0x01 | 0x29 | 0x81 | 0x83 | 0x89 | 0xff => {}
            _ => return None,
        }
        let Form { mode: 3, reg, rm } = self.form()? else { return None };
        let (to, from) = (usize::from(rm | high.base << 3), usize::from(reg | (rex >> 2 & 1) << 3));
        Some(match (opcode, reg) {
            (0x89, _) => Instruction::Move(to, from),
            (0x01, _) => Instruction::Add(to, Value::Register(from)),
            (0x29, _) => Instruction::Subtract(to, Value::Register(from)),
            (0xff, 1) => Instruction::Decrement(to),
            (0x81, 0) => Instruction::Add(to, Value::Constant(self.long()?)),
            (0x81, 5) => Instruction::Subtract(to, Value::Constant(self.long()?)),
            (0x83, 0) => Instruction::Add(to, Value::Constant(self.short()?)),
            (0x83, 5) => Instruction::Subtract(to, Value::Constant(self.short()?)),
            _ => return None,
        })
    }

    /// An address in memory: a scale, an index and a base where `rm` is 4. Addresses relative to nothing, or to the next
    /// instruction, are not known here.
    fn address(&mut self, mode: u8, rm: u8, high: High) -> Option<Address> {
        let (mut base, mut index) = (rm, None);
        if rm == 4 {
            let sib = self.byte()?;
            base = sib & 7;
            let number = usize::from(sib >> 3 & 7 | high.index << 3);
            // The stack's pointer cannot be an index: its number says that there is none.
            index = (number != 4).then_some((number, u32::from(sib >> 6)));
        }
        if mode == 0 && base == 5 {
            return None;
        }
        let displacement = match mode {
            0 => 0,
            1 => self.short()?,
            _ => self.long()?,
        };
        Some(Address { base: usize::from(base | high.base << 3), index, displacement })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the GNU assembler has them.
    #[test]
    fn the_machine_code_of_every_instruction() {
        let at = |base, index, displacement| Address { base, index, displacement };
        let cases: [(&[u8], Instruction); 19] = [
            (&[0xc4, 0xe2, 0x78, 0x49, 0x07], Instruction::Configure(at(7, None, 0))),
            (&[0xc4, 0xc2, 0x78, 0x49, 0x40, 0x10], Instruction::Configure(at(8, None, 16))),
            (&[0xc4, 0xe2, 0x78, 0x49, 0xc0], Instruction::Release),
            (&[0xc4, 0xe2, 0x7b, 0x49, 0xd8], Instruction::Zero(3)),
            (&[0xc4, 0xe2, 0x7b, 0x4b, 0x24, 0x0e], Instruction::Load(4, at(6, Some((1, 0)), 0))),
            (
                &[0xc4, 0x82, 0x7b, 0x4b, 0xb4, 0x88, 0x00, 0x04, 0x00, 0x00],
                Instruction::Load(6, at(8, Some((9, 2)), 1024)),
            ),
            (&[0xc4, 0xc2, 0x7a, 0x4b, 0x4c, 0x05, 0x40], Instruction::Store(1, at(13, Some((0, 0)), 64))),
            (&[0xc4, 0xe2, 0x4a, 0x5c, 0xd5], Instruction::Multiply { sums: 2, left: 5, right: 6 }),
            (&[0x41, 0x0f, 0x18, 0x4c, 0x09, 0x40], Instruction::Prefetch),
            (&[0x0f, 0x18, 0x16], Instruction::Prefetch),
            (&[0x49, 0x89, 0xfa], Instruction::Move(10, 7)),
            (&[0x48, 0x05, 0x00, 0x04, 0x00, 0x00], Instruction::Add(0, Value::Constant(1024))),
            (&[0x49, 0x81, 0xc0, 0x00, 0x04, 0x00, 0x00], Instruction::Add(8, Value::Constant(1024))),
            (&[0x48, 0x83, 0xc2, 0x40], Instruction::Add(2, Value::Constant(64))),
            (&[0x4c, 0x01, 0xd9], Instruction::Add(1, Value::Register(11))),
            (&[0x49, 0x29, 0xdc], Instruction::Subtract(12, Value::Register(3))),
            (&[0x49, 0xff, 0xcd], Instruction::Decrement(13)),
            (&[0x75, 0xfe], Instruction::JumpUnlessZero(-2)),
            (&[0x0f, 0x85, 0xf8, 0x03, 0x00, 0x00], Instruction::JumpUnlessZero(0x3f8)),
        ];
        for (code, instruction) in cases {
            let behind = code.iter().copied().chain([0x90; 4]);
            assert_eq!(decode(behind), Some((instruction, code.len())), "{code:02x?}");
            assert_eq!(decode(code[..code.len() - 1].iter().copied()), None, "{code:02x?} without its end");
        }
    }

    #[test]
    fn what_is_no_instruction_on_tiles() {
        // ud2; vpdpbusd on vectors; tdpbssd, a product of bytes; tileloadd without an index's byte; an address from rip;
        // add eax, 1; add [rax], rcx; ret.
        let others: [&[u8]; 8] = [
            &[0x0f, 0x0b],
            &[0xc4, 0xe2, 0x75, 0x50, 0xc2],
            &[0xc4, 0xe2, 0x73, 0x5e, 0xc2],
            &[0xc4, 0xe2, 0x7b, 0x4b, 0x06],
            &[0xc4, 0xe2, 0x78, 0x49, 0x05, 0, 0, 0, 0],
            &[0x83, 0xc0, 0x01],
            &[0x48, 0x01, 0x08],
            &[0xc3],
        ];
        for code in others {
            assert_eq!(decode(code.iter().copied()), None, "{code:02x?}");
        }
    }
}
