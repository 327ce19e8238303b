//! The instructions on tiles (AMX, for bf16) on a CPU that has none: for tests of the code that uses them.
//!
//! The CPU refuses such an instruction; the system tells the process by a signal, whose handler does here what the
//! instruction would do to the thread's tiles, and goes on behind it. So tests run the very machine code that ships. A signal
//! takes longer than a product of tiles does here, above all on a virtual machine: so the handler also executes what stands
//! between instructions on tiles in a loop, and a loop takes one signal.
//!
//! Shapes that a CPU would refuse end the process, with the reason; so does, by the signal, every other instruction
//! that the CPU does not know.

mod instruction;
mod registers;
mod tiles;

use instruction::{Instruction, decode};
use registers::Registers;
use std::arch::asm;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use tiles::Tiles;

thread_local! {
    /// Nothing is allocated for it, and nothing is to be dropped: a signal's handler may use it.
    static TILES: RefCell<Tiles> = const { RefCell::new(Tiles::released()) };
}

static INSTALLED: OnceLock<bool> = OnceLock::new();

/// From now on this process executes instructions on tiles, unless the CPU lacks AVX2, and `backend-cpu` counts on that.
/// Says whether it does.
pub fn install() -> bool {
    *INSTALLED.get_or_init(|| {
        let handler: Handler = handler;
        let installed = is_x86_feature_detected!("avx2") && handle_illegal_instructions(handler as usize);
        if installed {
            // SAFETY: what the CPU refuses of them, the handler executes.
            unsafe { backend_cpu::assume_tiles() };
        }
        installed
    })
}

/// As SA_SIGINFO wants it.
type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

fn handle_illegal_instructions(handler: usize) -> bool {
    // SAFETY: a `sigaction` of zeros is one: it blocks no signals and has no flags.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    (action.sa_sigaction, action.sa_flags) = (handler, libc::SA_SIGINFO);
    // SAFETY: `action` is valid, and its handler is the default one, or ours, which takes what SA_SIGINFO gives. Ours
    // touches only the interrupted thread's context and tiles, so it may interrupt whatever is not itself; it executes no
    // instruction on tiles.
    unsafe { libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut()) == 0 }
}

/// Does what the interrupted instruction would, if it is one on tiles, and those behind it as long as it knows them. A panic
/// ends the process here.
extern "C" fn handler(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system gives a handler that was installed with SA_SIGINFO the interrupted thread's context, which nobody
    // else uses until the handler returns.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let mut registers = Registers(registers);
    let interrupted = registers.next();
    // SAFETY: the thread was interrupted before the instruction there, or comes to it by those that were executed since.
    // No more bytes are read than it has, since all lengths follow from the bytes before.
    let code = |at: usize| (at..).map(|at| unsafe { (at as *const u8).read() });
    TILES.with_borrow_mut(|tiles| {
        while let Some((instruction, len)) = decode(code(registers.next())) {
            registers.jump(len as isize);
            // SAFETY: `install` found AVX2. The instruction may touch the memory that its author lets it.
            unsafe { execute(tiles, instruction, &mut registers) };
        }
    });
    if registers.next() == interrupted {
        // Executed again, the instruction has the effect that it would have had.
        handle_illegal_instructions(libc::SIG_DFL);
    }
}

/// # Safety
///
/// The CPU has AVX2, and the instruction's memory is there, for it to read or write.
#[target_feature(enable = "avx2")]
unsafe fn execute(tiles: &mut Tiles, instruction: Instruction, registers: &mut Registers<'_>) {
    match instruction {
        Instruction::Configure(address) => {
            let (at, index) = registers.address(address);
            // SAFETY: the instruction reads 64 bytes; the caller promises them.
            tiles.configure(unsafe { &*(at.wrapping_add(index) as *const [u8; 64]) });
        }
        Instruction::Release => *tiles = Tiles::released(),
        Instruction::Zero(tile) => tiles.zero(tile),
        Instruction::Load(tile, address) => {
            tiles.zero(tile);
            let (at, stride) = registers.address(address);
            for row in 0..tiles.shape(tile).0 {
                let from = at.wrapping_add(row.wrapping_mul(stride)) as *const u32;
                let lanes = tiles.row_mut(tile, row).iter_mut();
                // SAFETY: the instruction reads the tile's rows; the caller promises them.
                lanes.enumerate().for_each(|(i, lane)| *lane = unsafe { from.add(i).read_unaligned() });
            }
        }
        Instruction::Store(tile, address) => {
            let (at, stride) = registers.address(address);
            for row in 0..tiles.shape(tile).0 {
                let to = at.wrapping_add(row.wrapping_mul(stride)) as *mut u32;
                let lanes = tiles.row(tile, row).iter();
                // SAFETY: the instruction writes the tile's rows; the caller promises them.
                lanes.enumerate().for_each(|(i, &lane)| unsafe { to.add(i).write_unaligned(lane) });
            }
        }
        Instruction::Multiply { sums, left, right } => {
            flushing_denormals(|| tiles.multiply(sums, left, right));
        }
        Instruction::Prefetch => {}
        Instruction::Move(to, from) => registers.set(to, registers.get(from)),
        Instruction::Add(to, value) => registers.add(to, registers.value(value)),
        Instruction::Subtract(to, value) => registers.subtract(to, registers.value(value)),
        Instruction::Decrement(register) => registers.decrement(register),
        Instruction::JumpUnlessZero(by) => {
            if !registers.is_zero() {
                registers.jump(by as isize);
            }
        }
    }
}

/// Runs `multiply` with denormal numbers taken as zero, and zero for results that would be, as the matrix unit does
/// whatever the thread wants.
#[inline(always)]
fn flushing_denormals(multiply: impl FnOnce()) {
    const DENORMALS_ARE_ZERO: u32 = 1 << 6;
    const FLUSH_TO_ZERO: u32 = 1 << 15;
    let mut before = 0u32;
    // SAFETY: it stores the control register, all of whose bits are kept below but two that change no more than denormal
    // numbers.
    unsafe { asm!("stmxcsr [{0}]", in(reg) &raw mut before, options(nostack)) };
    let set = |control: u32| {
        // SAFETY: what was stored, or that with the two bits. That code about it does not know them is the purpose.
        unsafe { asm!("ldmxcsr [{0}]", in(reg) &raw const control, options(nostack)) };
    };
    set(before | DENORMALS_ARE_ZERO | FLUSH_TO_ZERO);
    multiply();
    set(before);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two tiles of 16 rows of 16 lanes, multiplied by the instructions themselves.
    fn product(left: &[[u32; 16]; 16], right: &[[u32; 16]; 16]) -> [[f32; 16]; 16] {
        let mut shapes = [0u8; 64];
        shapes[0] = 1;
        for tile in 0..3 {
            (shapes[16 + 2 * tile], shapes[48 + tile]) = (64, 16);
        }
        let mut sums = [[0f32; 16]; 16];
        // SAFETY: either the CPU has them, or the handler does; each tile is a whole array, in rows of 64 bytes.
        unsafe {
            asm!(
                "ldtilecfg [{shapes}]",
                "tilezero tmm0",
                "tileloadd tmm1, [{left} + {row}]",
                "tileloadd tmm2, [{right} + {row}]",
                "tdpbf16ps tmm0, tmm1, tmm2",
                "tilestored [{sums} + {row}], tmm0",
                "tilerelease",
                shapes = in(reg) shapes.as_ptr(), left = in(reg) left.as_ptr(), right = in(reg) right.as_ptr(),
                sums = in(reg) sums.as_mut_ptr(), row = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _,
                options(nostack),
            );
        }
        sums
    }

    #[test]
    fn instructions_that_the_processor_lacks_are_executed_on_every_thread() {
        if !install() {
            return;
        }
        // Two bf16 of row and column: 1 and 0 on the diagonal; small whole numbers.
        let one = 0x3f80u32;
        let unit = std::array::from_fn(|i| std::array::from_fn(|j| if i == j { one } else { 0 }));
        let numbers: [[f32; 16]; 16] = std::array::from_fn(|i| std::array::from_fn(|j| (16 * i + j) as f32 - 90.0));
        let pairs = numbers.map(|row| row.map(|number| number.to_bits() >> 16));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..3).for_each(|_| assert_eq!(product(&unit, &pairs), numbers)));
            }
        });
        // 2⁻¹²⁷ is denormal, and so is 2⁻⁷⁰ · 2⁻⁷⁰.
        for (a, b) in [(0x0040, one), (one, 0x0040), (0x1c80, 0x1c80)] {
            assert_eq!(product(&[[a; 16]; 16], &[[b; 16]; 16]), [[0.0; 16]; 16]);
        }
        let thousandth = f32::MIN_POSITIVE / std::hint::black_box(1000.0);
        assert!(thousandth > 0.0, "the thread has its own denormal numbers again");
    }
}
