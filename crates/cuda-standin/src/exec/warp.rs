//! One warp: 32 lanes, each with its own program counter.
//!
//! The lanes with the lowest program counter run, as one group, until they branch apart or come to where others are. So
//! lanes meet again at the end of an `if` or of a loop. A group that polls or has run for long gives way to the others.

use super::alu::combine;
use super::lanes::Registers;
use super::launch::{Context, Launch};
use super::memory::PendingCopies;
use super::{FaultKind, Faulted, LaneFault, lanes_of};
use crate::ptx::program::{BarReduce, Inst, Op, Row, Special};

/// How many polls make a warp give way.
const POLLS_MAX: u32 = 16;
/// How many instructions a group runs while others of its warp wait.
const GROUP_INSTRUCTIONS_MAX: u64 = 4096;

pub(super) struct Warp {
    pub(super) regs: Registers,
    pub(super) local: Vec<u8>,
    pub(super) copies: PendingCopies,
    /// Lanes that have not exited.
    pub(super) alive: u32,
    pc: [u32; 32],
    /// Lanes that wait at their instruction for others of the warp.
    parked: u32,
    /// What `alive` was when the last of them began to wait.
    alive_when_parked: u32,
    /// The group that is ahead goes first, as the one behind has had its turn.
    prefer_last: bool,
    /// The barrier at which the warp waits.
    pub(super) barrier: Option<u32>,
    /// What the barrier is to compute, and for which lanes.
    pub(super) reduce: Option<(BarReduce, u32)>,
    /// Thread index of lane 0.
    first_thread: u32,
}

/// Why a warp stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pause {
    /// All lanes have exited.
    Exited,
    /// It waits at a barrier, for so many threads or for all.
    Barrier { id: u32, count: Option<u32> },
    /// It has arrived at a barrier, and goes on.
    Arrived { id: u32, count: u32 },
    /// It has a predicate for a barrier's reduction, and waits.
    Reduce { id: u32, holds: u32, lanes: u32 },
    /// It has run for long.
    Budget,
    /// It looks at what others may write.
    Polling,
}

/// What an instruction that has control over the group does to it.
enum Flow {
    /// Go on with the next instruction.
    Next,
    /// Go on there.
    To(u32),
    /// The lanes' program counters are set: form groups anew.
    Regroup,
    Pause(Pause),
}

impl Warp {
    pub(super) fn new(launch: &Launch<'_>, index: usize) -> Self {
        Self {
            regs: Registers::new(launch.program),
            local: vec![0xff; 32 * launch.program.local_bytes],
            copies: PendingCopies::default(),
            alive: 0,
            pc: [0; 32],
            parked: 0,
            alive_when_parked: 0,
            prefer_last: false,
            barrier: None,
            reduce: None,
            first_thread: 32 * index as u32,
        }
    }

    /// Makes it ready to run in a block.
    pub(super) fn start(&mut self, launch: &Launch<'_>, block: [u32; 3]) {
        let threads = launch.block.iter().product::<u32>() - self.first_thread;
        self.alive = if threads >= 32 { u32::MAX } else { (1 << threads) - 1 };
        (self.pc, self.parked, self.barrier, self.reduce) = ([0; 32], 0, None, None);
        self.prefer_last = false;
        self.copies.clear();
        let warp = self.first_thread / 32;
        let first = self.first_thread;
        self.regs.set_specials(launch.program, |special, lane| match special {
            Special::Tid(axis) => thread_index(launch.block, first + lane as u32)[axis],
            Special::Ntid(axis) => launch.block[axis],
            Special::Ctaid(axis) => block[axis],
            Special::Nctaid(axis) => launch.grid[axis],
            Special::LaneId => lane as u32,
            Special::WarpId => warp,
            Special::NwarpId => launch.block.iter().product::<u32>().div_ceil(32),
            Special::SmId => launch.linear(block) as u32 % launch.sms,
            Special::NsmId => launch.sms,
            Special::LaneMaskEq => 1 << lane,
            Special::LaneMaskLt => (1 << lane) - 1,
            Special::LaneMaskLe => u32::MAX >> (31 - lane),
            Special::LaneMaskGt => !(u32::MAX >> (31 - lane)),
            Special::LaneMaskGe => u32::MAX << lane,
            Special::DynamicSharedBytes => launch.shared_bytes as u32,
        });
    }

    pub(super) fn thread(&self, block: [u32; 3], lane: usize) -> [u32; 3] {
        thread_index(block, self.first_thread + lane as u32)
    }

    /// The instruction at which a lane is.
    pub(super) fn at(&self, lane: usize) -> usize {
        self.pc[lane] as usize
    }

    /// Runs until something makes the warp wait, or for `budget` instructions.
    pub(super) fn run(&mut self, cx: &mut Context<'_>, budget: u64) -> Faulted<Pause> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has what the function is compiled for.
            return unsafe { self.run_avx2(cx, budget) };
        }
        self.run_inline(cx, budget)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c")]
    fn run_avx2(&mut self, cx: &mut Context<'_>, budget: u64) -> Faulted<Pause> {
        self.run_inline(cx, budget)
    }

    #[inline(always)]
    fn run_inline(&mut self, cx: &mut Context<'_>, budget: u64) -> Faulted<Pause> {
        let program = cx.launch.program;
        let end = cx.worker.instructions + budget;
        cx.polls = 0;
        loop {
            let Some((first, mut next)) = self.group()? else { return Ok(Pause::Exited) };
            let mut pc = first;
            let mask = self.lanes_at(pc);
            self.parked &= !mask;
            let switch = if next == u32::MAX { u64::MAX } else { cx.worker.instructions + GROUP_INSTRUCTIONS_MAX };
            let stop = end.min(switch);
            loop {
                let inst: &Inst = &program.code[pc as usize];
                cx.worker.instructions += 1;
                let m = inst.guard.map_or(mask, |guard| mask & self.regs.pred(guard));
                if m != 0 {
                    match self.step(cx, pc, mask, m, &inst.op).inspect_err(|_| self.set_pc(mask, pc))? {
                        Flow::Next => pc += 1,
                        Flow::To(target) => {
                            // Going back, it may come to where others are, if they are not where it was going.
                            if target <= pc {
                                next = self.next_after(target, mask);
                            }
                            pc = target;
                        }
                        Flow::Regroup => break,
                        Flow::Pause(pause) => return Ok(pause),
                    }
                } else {
                    pc += 1;
                }
                if pc >= next || cx.worker.instructions >= stop || cx.polls > POLLS_MAX {
                    self.set_pc(mask, pc);
                    if cx.worker.instructions >= end {
                        return Ok(Pause::Budget);
                    }
                    self.prefer_last = cx.worker.instructions >= switch || cx.polls > POLLS_MAX;
                    if cx.polls > POLLS_MAX {
                        return Ok(Pause::Polling);
                    }
                    break;
                }
            }
        }
    }

    /// The program counter of the group that runs, and the next one above it; none if all lanes have exited.
    #[inline(always)]
    fn group(&mut self) -> Faulted<Option<(u32, u32)>> {
        if self.alive == 0 {
            return Ok(None);
        }
        if self.alive & !self.parked == 0 {
            if self.alive == self.alive_when_parked {
                return self.stuck();
            }
            // Some that they waited for have exited.
            self.parked = 0;
            self.alive_when_parked = self.alive;
        }
        let ready = self.alive & !self.parked;
        let (mut low, mut high) = (u32::MAX, 0);
        for lane in lanes_of(ready) {
            low = low.min(self.pc[lane]);
            high = high.max(self.pc[lane]);
        }
        let pc = if std::mem::take(&mut self.prefer_last) { high } else { low };
        Ok(Some((pc, self.next_after(pc, self.lanes_at(pc)))))
    }

    /// The lowest program counter, not below `pc`, of lanes outside of `mask`.
    #[inline(always)]
    fn next_after(&self, pc: u32, mask: u32) -> u32 {
        lanes_of(self.alive & !mask).map(|lane| self.pc[lane]).filter(|other| *other >= pc).min().unwrap_or(u32::MAX)
    }

    #[inline(always)]
    fn lanes_at(&self, pc: u32) -> u32 {
        let mut mask = 0;
        for lane in 0..32 {
            mask |= u32::from(self.pc[lane] == pc) << lane;
        }
        mask & self.alive
    }

    #[inline(always)]
    fn set_pc(&mut self, mask: u32, pc: u32) {
        for lane in lanes_of(mask) {
            self.pc[lane] = pc;
        }
    }

    #[cold]
    fn stuck<T>(&self) -> Faulted<T> {
        let lane = self.alive.trailing_zeros() as usize;
        let here = self.lanes_at(self.pc[lane]);
        let why = format!(
            "lanes {here:08x} wait for others of their warp: lanes {:08x} wait elsewhere, and lanes {:08x} have exited",
            self.alive & !here,
            !self.alive
        );
        Err(Box::new(LaneFault { kind: FaultKind::Synchronization, lane, why }))
    }

    /// Whether the lanes that `members` names have all come to this instruction; if not, those that have are parked.
    #[inline(always)]
    fn met(&mut self, pc: u32, mask: u32, m: u32, members: u32) -> Faulted<bool> {
        let named = members & self.alive;
        if m & !named != 0 {
            let lane = (m & !named).trailing_zeros() as usize;
            let why = format!("lanes {:08x} execute it but are not in its mask {members:08x}", m & !named);
            return Err(Box::new(LaneFault { kind: FaultKind::Synchronization, lane, why }));
        }
        if named == m {
            return Ok(true);
        }
        self.set_pc(mask, pc);
        // Lanes whose predicate is false do not take part: they go on.
        self.set_pc(mask & !m, pc + 1);
        self.parked |= m;
        self.alive_when_parked = self.alive;
        Ok(false)
    }

    #[inline(always)]
    fn step(&mut self, cx: &mut Context<'_>, pc: u32, mask: u32, m: u32, op: &Op) -> Faulted<Flow> {
        match op {
            Op::Branch { target } => {
                if m == mask {
                    return Ok(Flow::To(*target));
                }
                self.set_pc(m, *target);
                self.set_pc(mask & !m, pc + 1);
                return Ok(Flow::Regroup);
            }
            Op::Load { address, to } => self.load(cx, pc as usize, m, address, to)?,
            Op::Store { address, from } => self.store(cx, pc as usize, m, address, from)?,
            Op::Un32 { f, d, a } => self.regs.un32(m, *f, *d, *a),
            Op::Un64 { f, d, a } => self.regs.un64(m, *f, *d, *a),
            Op::Bin32 { f, d, a, b } => self.regs.bin32(m, *f, *d, *a, *b),
            Op::Bin64 { f, d, a, b } => self.regs.bin64(m, *f, *d, *a, *b),
            Op::Shift64 { f, d, a, b } => self.regs.shift64(m, *f, *d, *a, *b),
            Op::MulWide { signed, d, a, b } => self.regs.multiply_wide(m, *signed, *d, *a, *b),
            Op::Tern32 { f, d, a, b, c } => self.regs.tern32(m, *f, *d, [*a, *b, *c]),
            Op::Tern64 { f, d, a, b, c } => self.regs.tern64(m, *f, *d, [*a, *b, *c]),
            Op::Widen { signed, d, a } => self.regs.widen(m, *signed, *d, *a),
            Op::Narrow { d, a } => self.regs.narrow(m, *d, *a),
            Op::Select32 { d, a, b, p } => self.regs.select(m, self.regs.pred(*p), *d, *a, *b),
            Op::Select64 { d, a, b, p } => self.regs.select_wide(m, self.regs.pred(*p), *d, *a, *b),
            Op::Setp { cmp, of, d, d_not, a, b, combine: with } => {
                let compared = self.regs.compare(*cmp, *of, *a, *b);
                let join = |lanes| with.map_or(lanes, |(logic, p)| combine(logic, lanes, self.regs.pred(p)));
                let (holds, fails) = (join(compared), join(!compared));
                for (pred, lanes) in [(d, holds), (d_not, fails)] {
                    if let Some(pred) = pred {
                        self.regs.put_pred(*pred, m, lanes);
                    }
                }
            }
            Op::PredLogic { f, d, a, b } => {
                let lanes = combine(*f, self.regs.pred(*a), self.regs.pred(*b));
                self.regs.put_pred(*d, m, lanes);
            }
            Op::Mma(it) => {
                self.need_whole_warp(m)?;
                self.mma(it);
            }
            Op::Shfl(it) => {
                let members = self.members(m, it.members)?;
                if !self.met(pc, mask, m, members)? {
                    return Ok(Flow::Regroup);
                }
                self.shuffle(m, it);
            }
            other => return self.step_rare(cx, pc, mask, m, other),
        }
        Ok(Flow::Next)
    }

    /// What is not worth a place in the loop.
    #[inline(never)]
    fn step_rare(&mut self, cx: &mut Context<'_>, pc: u32, mask: u32, m: u32, op: &Op) -> Faulted<Flow> {
        match op {
            Op::Nop => {}
            Op::Fence => std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst),
            Op::Sleep => cx.polls += POLLS_MAX + 1,
            Op::Bfi { d, a, b, start, len } => self.regs.bit_field_insert(m, *d, [*a, *b, *start, *len], false),
            Op::Bfi64 { d, a, b, start, len } => self.regs.bit_field_insert(m, *d, [*a, *b, *start, *len], true),
            Op::Bfe64 { signed, d, a, start, len } => {
                self.regs.bit_field_extract64(m, *signed, *d, [*a, *start, *len]);
            }
            Op::Convert { from, to, round, saturate, d, a } => {
                self.regs.convert(m, [*from, *to], *round, *saturate, *d, *a);
            }
            Op::Pack { bits, parts, count, d, wide } => self.regs.pack(m, *bits, &parts[..*count], *d, *wide),
            Op::Unpack { bits, parts, count, a, wide } => self.regs.unpack(m, *bits, &parts[..*count], *a, *wide),
            Op::PredValue { d, p, ones } => {
                let holds = self.regs.pred(*p);
                let values = std::array::from_fn(|lane| if holds >> lane & 1 == 1 { *ones } else { 0 });
                self.regs.put(*d, m, &values);
            }
            Op::PredConst { d, value } => self.regs.put_pred(*d, m, if *value { u32::MAX } else { 0 }),
            Op::Clock { d, wide: true } => self.regs.put_wide(*d, m, &[cx.worker.instructions; 32]),
            Op::Clock { d, wide: false } => self.regs.put(*d, m, &[cx.worker.instructions as u32; 32]),
            Op::Atomic(it) => self.atomic(cx, pc as usize, m, it)?,
            Op::CopyAsync(it) => self.copy_async(cx, pc as usize, m, it)?,
            Op::CopyCommit => self.copy_commit(m),
            Op::CopyWait { keep } => self.copy_wait(cx, m, *keep),
            Op::LdMatrix { address, d, count, transposed } => {
                self.need_whole_warp(m)?;
                self.load_matrix(cx, address, &d[..*count], *transposed)?;
            }
            Op::ActiveMask { d } => self.regs.put(*d, m, &[m; 32]),
            Op::BranchIndexed { index, targets } => return self.branch_indexed(pc, mask, m, *index, targets),
            Op::Exit => {
                self.alive &= !m;
                self.set_pc(mask, pc + 1);
                return Ok(Flow::Regroup);
            }
            Op::Trap { why } => {
                let lane = m.trailing_zeros() as usize;
                return Err(Box::new(LaneFault { kind: FaultKind::Trap, lane, why: (*why).to_owned() }));
            }
            other => return self.step_together(pc, mask, m, other),
        }
        Ok(Flow::Next)
    }

    /// What lanes do together.
    fn step_together(&mut self, pc: u32, mask: u32, m: u32, op: &Op) -> Faulted<Flow> {
        let members = match op {
            Op::Vote { members, .. }
            | Op::Ballot { members, .. }
            | Op::MatchAny { members, .. }
            | Op::Redux { members, .. }
            | Op::WarpSync { members } => self.members(m, *members)?,
            // Barriers of the block are for whole warps.
            _ => u32::MAX,
        };
        if !self.met(pc, mask, m, members)? {
            return Ok(Flow::Regroup);
        }
        match op {
            Op::Vote { mode, d, p, .. } => self.vote(m, *mode, *d, *p),
            Op::Ballot { d, p, .. } => self.ballot(m, *d, *p),
            Op::MatchAny { d, a, .. } => self.match_any(m, *d, *a),
            Op::Redux { f, d, a, .. } => self.redux(m, *f, *d, *a),
            Op::WarpSync { .. } => {}
            Op::BarSync { id, count } => {
                let (id, count) = (self.uniform(m, *id), count.map(|count| self.uniform(m, count)));
                self.set_pc(mask, pc + 1);
                self.barrier = Some(id);
                return Ok(Flow::Pause(Pause::Barrier { id, count }));
            }
            Op::BarArrive { id, count } => {
                let (id, count) = (self.uniform(m, *id), self.uniform(m, *count));
                self.set_pc(mask, pc + 1);
                return Ok(Flow::Pause(Pause::Arrived { id, count }));
            }
            Op::BarReduce { f, id, p } => {
                let (id, holds) = (self.uniform(m, *id), self.regs.pred(*p) & m);
                self.set_pc(mask, pc + 1);
                self.barrier = Some(id);
                self.reduce = Some((*f, m));
                return Ok(Flow::Pause(Pause::Reduce { id, holds, lanes: m }));
            }
            other => unreachable!("{other:?} is lowered to nothing that runs"),
        }
        Ok(Flow::Next)
    }

    /// A value that is the same in all lanes.
    fn uniform(&self, m: u32, row: Row) -> u32 {
        self.regs.row(row)[m.trailing_zeros() as usize]
    }

    /// A mask operand, which must be the same in all lanes that execute together.
    #[inline(always)]
    fn members(&self, m: u32, row: Row) -> Faulted<u32> {
        let row = self.regs.row(row);
        let members = row[m.trailing_zeros() as usize];
        if let Some(lane) = lanes_of(m).find(|lane| row[*lane] != members) {
            let why = format!("lane {lane} has the mask {:08x}, another one has {members:08x}", row[lane]);
            return Err(Box::new(LaneFault { kind: FaultKind::Synchronization, lane, why }));
        }
        Ok(members)
    }

    #[inline(always)]
    fn need_whole_warp(&self, m: u32) -> Faulted<()> {
        if m == u32::MAX {
            return Ok(());
        }
        let why = format!("all lanes of the warp must execute it, only {m:08x} do");
        let lane = m.trailing_zeros() as usize;
        Err(Box::new(LaneFault { kind: FaultKind::Synchronization, lane, why }))
    }

    fn branch_indexed(&mut self, pc: u32, mask: u32, m: u32, index: Row, targets: &[u32]) -> Faulted<Flow> {
        let index = *self.regs.row(index);
        self.set_pc(mask & !m, pc + 1);
        for lane in lanes_of(m) {
            let Some(target) = targets.get(index[lane] as usize) else {
                let why = format!("index {} of {} targets", index[lane], targets.len());
                return Err(Box::new(LaneFault { kind: FaultKind::Synchronization, lane, why }));
            };
            self.pc[lane] = *target;
        }
        Ok(Flow::Regroup)
    }

    /// Gives the lanes what a barrier has computed.
    pub(super) fn finish_reduce(&mut self, count: u32, all: bool) {
        if let Some((f, m)) = self.reduce.take() {
            let ones = |holds: bool| if holds { u32::MAX } else { 0 };
            match f {
                BarReduce::Popc(d) => self.regs.put(d, m, &[count; 32]),
                BarReduce::And(d) => self.regs.put_pred(d, m, ones(all)),
                BarReduce::Or(d) => self.regs.put_pred(d, m, ones(count > 0)),
            }
        }
    }
}

/// Where a thread is in its block.
fn thread_index(block: [u32; 3], thread: u32) -> [u32; 3] {
    [thread % block[0], thread / block[0] % block[1], thread / (block[0] * block[1])]
}
