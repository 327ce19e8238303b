//! An interrupted thread's general registers and flags.

use crate::instruction::{Address, Value};

/// In the system's order.
pub struct Registers<'a>(pub &'a mut [i64; 23]);

/// Where the system has the registers, by their numbers in machine code.
const ORDER: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

const CARRY: u64 = 1;
const PARITY: u64 = 1 << 2;
const ADJUST: u64 = 1 << 4;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;
const OVERFLOW: u64 = 1 << 11;

impl Registers<'_> {
    /// Where the next instruction is.
    pub fn next(&self) -> usize {
        self.0[libc::REG_RIP as usize] as usize
    }

    /// Goes on so many bytes behind the next instruction.
    pub fn jump(&mut self, by: isize) {
        self.0[libc::REG_RIP as usize] = self.next().wrapping_add_signed(by) as i64;
    }

    /// A register's value, by its number in machine code.
    pub fn get(&self, number: usize) -> u64 {
        self.0[ORDER[number] as usize] as u64
    }

    /// Changes it.
    pub fn set(&mut self, number: usize, value: u64) {
        self.0[ORDER[number] as usize] = value as i64;
    }

    /// What an instruction adds.
    pub fn value(&self, value: Value) -> u64 {
        match value {
            Value::Register(number) => self.get(number),
            Value::Constant(number) => i64::from(number) as u64,
        }
    }

    /// Where an address begins, and what lies between rows.
    pub fn address(&self, Address { base, index, displacement }: Address) -> (usize, usize) {
        let stride = index.map_or(0, |(number, shift)| self.get(number) << shift);
        (self.get(base).wrapping_add_signed(displacement.into()) as usize, stride as usize)
    }

    /// Adds to a register.
    pub fn add(&mut self, number: usize, value: u64) {
        let before = self.get(number);
        let (sum, carry) = before.overflowing_add(value);
        let overflow = before.cast_signed().overflowing_add(value.cast_signed()).1;
        self.finish(number, sum, before ^ value, (overflow, Some(carry)));
    }

    /// Subtracts from a register.
    pub fn subtract(&mut self, number: usize, value: u64) {
        let (_, borrow) = self.get(number).overflowing_sub(value);
        self.reduce(number, value, Some(borrow));
    }

    /// Subtracts 1 from a register, and leaves the carry as it is.
    pub fn decrement(&mut self, number: usize) {
        self.reduce(number, 1, None);
    }

    /// Whether the last result was 0.
    pub fn is_zero(&self) -> bool {
        self.0[libc::REG_EFL as usize] as u64 & ZERO != 0
    }

    fn reduce(&mut self, number: usize, value: u64, carry: Option<bool>) {
        let before = self.get(number);
        let overflow = before.cast_signed().overflowing_sub(value.cast_signed()).1;
        self.finish(number, before.wrapping_sub(value), before ^ value, (overflow, carry));
    }

    /// Takes a result, and sets the flags: `differ` has the bits in which the operands differ.
    fn finish(&mut self, number: usize, result: u64, differ: u64, (overflow, carry): (bool, Option<bool>)) {
        self.set(number, result);
        let flags = [
            (CARRY, carry),
            (PARITY, Some((result as u8).count_ones().is_multiple_of(2))),
            // A carry out of the lowest four bits.
            (ADJUST, Some((differ ^ result) & 16 != 0)),
            (ZERO, Some(result == 0)),
            (SIGN, Some(result.cast_signed() < 0)),
            (OVERFLOW, Some(overflow)),
        ];
        let register = &mut self.0[libc::REG_EFL as usize];
        for (flag, set) in flags.into_iter().filter_map(|(flag, set)| Some((flag.cast_signed(), set?))) {
            *register = if set { *register | flag } else { *register & !flag };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::arch::asm;

    const ALL: u64 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;

    /// What the CPU makes of the same instruction.
    macro_rules! processor {
        ($instruction:literal, $before:expr, $value:expr) => {{
            let (mut result, mut flags) = ($before, 0u64);
            // SAFETY: it computes in registers, with no carry at first, and leaves the stack as it was.
            unsafe {
                asm!("clc", $instruction, "pushfq", "pop {flags}", a = inout(reg) result,
                    b = in(reg) $value, flags = inout(reg) flags);
            }
            (result, flags & ALL)
        }};
    }

    #[test]
    fn results_and_flags_are_the_processors() {
        let numbers = [0, 1, 2, 15, 16, 255, 1 << 31, (1 << 63) - 1, 1 << 63, u64::MAX - 15, u64::MAX];
        for (a, b) in numbers.into_iter().flat_map(|a| numbers.map(|b| (a, b))) {
            let run = |operation: fn(&mut Registers<'_>, u64)| {
                let mut registers = [0; 23];
                let mut registers = Registers(&mut registers);
                registers.set(9, a);
                operation(&mut registers, b);
                (registers.get(9), registers.0[libc::REG_EFL as usize] as u64)
            };
            assert_eq!(run(|r, b| r.add(9, b)), processor!("add {a}, {b}", a, b), "{a} + {b}");
            assert_eq!(run(|r, b| r.subtract(9, b)), processor!("sub {a}, {b}", a, b), "{a} - {b}");
            assert_eq!(run(|r, _| r.decrement(9)), processor!("dec {a} /* {b} */", a, b), "{a} - 1");
        }
    }
}
