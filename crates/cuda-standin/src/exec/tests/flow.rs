//! Branches, loops and calls.

use super::{Kernel, lanes, values_of};

#[test]
fn lanes_loop_as_often_as_each_must() {
    let body = "mov.u32 %r2, 0; mov.u32 %r3, 0; $LOOP: setp.ge.u32 %p1, %r3, %r1; @%p1 bra $END;
        add.s32 %r2, %r2, %r3; add.s32 %r3, %r3, 1; bra.uni $LOOP; $END:";
    assert_eq!(lanes(body), values_of(|lane| (0..lane).sum()));
}

#[test]
fn branches_nest() {
    let body = "and.b32 %r3, %r1, 1; and.b32 %r4, %r1, 2; setp.eq.u32 %p1, %r3, 0; setp.eq.u32 %p2, %r4, 0;
        @%p1 bra $EVEN; @%p2 bra $ONE; mov.u32 %r2, 3; bra $END; $ONE: mov.u32 %r2, 1; bra $END;
        $EVEN: @%p2 bra $ZERO; mov.u32 %r2, 2; bra $END; $ZERO: mov.u32 %r2, 0; $END:";
    assert_eq!(lanes(body), values_of(|lane| lane & 3));
}

#[test]
fn a_table_of_targets() {
    let body = "and.b32 %r3, %r1, 3; $TABLE: .branchtargets $A, $B, $C, $A; brx.idx %r3, $TABLE;
        $A: mov.u32 %r2, 10; bra $END; $B: mov.u32 %r2, 11; bra $END; $C: mov.u32 %r2, 12; $END:";
    assert_eq!(lanes(body), values_of(|lane| [10, 11, 12, 10][lane as usize % 4]));
}

#[test]
fn functions_are_inlined() {
    let module = ".func (.param .b32 result) square(.param .b32 x) {
            .reg .b32 %r<4>; .reg .pred %p<2>; ld.param.u32 %r1, [x]; setp.gt.u32 %p1, %r1, 3; @%p1 bra $BIG;
            mul.lo.u32 %r2, %r1, %r1; st.param.b32 [result+0], %r2; ret;
            $BIG: st.param.b32 [result+0], 99; ret; }";
    let call = "{ .param .b32 p0; .param .b32 r0; st.param.b32 [p0+0], %r1; call.uni (r0), square, (p0); ld.param.b32 %r2, [r0+0]; }";
    let body = format!("{call} mov.u32 %r7, %r2; {call} add.s32 %r2, %r2, %r7; st.global.u32 [%rd4], %r2;");
    let out = Kernel::with_module(module, &body).run();
    assert_eq!(out, values_of(|lane| 2 * if lane > 3 { 99 } else { lane * lane }));
}

#[test]
fn lanes_that_exit_leave_the_others() {
    let body = "st.global.u32 [%rd4], 1; setp.ge.u32 %p1, %r1, 8; @%p1 exit; shfl.sync.bfly.b32 %r2, %r1, 1, 31, 0xff;
        st.global.u32 [%rd4], %r2;";
    assert_eq!(Kernel::new(body).run(), values_of(|lane| if lane < 8 { lane ^ 1 } else { 1 }));
}

/// Lane 31 holds a lock that the others, which are behind it, spin for: it must run all the same.
#[test]
fn a_lane_that_others_spin_for_makes_progress() {
    let body = "setp.eq.u32 %p1, %r1, 31; @%p1 bra $HOLDER;
        $SPIN: ld.volatile.global.u32 %r3, [%rd1+124]; setp.eq.u32 %p2, %r3, 0; @%p2 bra $SPIN;
        st.global.u32 [%rd4], %r3; bra $END;
        $HOLDER: st.volatile.global.u32 [%rd1+124], 5; $END:";
    assert_eq!(Kernel::new(body).run(), vec![5; 32]);
}

#[test]
fn a_label_of_inline_assembly_may_recur() {
    let twice = "{ .reg .pred p; setp.eq.u32 p, %r1, 0; @p bra SKIP; add.s32 %r2, %r2, 1; SKIP: }";
    assert_eq!(lanes(&format!("mov.u32 %r2, 0; {twice} {twice}")), values_of(|lane| if lane == 0 { 0 } else { 2 }));
}
