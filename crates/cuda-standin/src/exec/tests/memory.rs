//! Loads, stores, atomics and asynchronous copies.

use super::{CopyMode, Kernel, lanes, value, values_of};

#[test]
fn global_memory_in_all_widths() {
    assert_eq!(lanes("ld.global.nc.u32 %r2, [%rd5];"), values_of(|lane| lane));
    assert_eq!(
        value("ld.global.L1::no_allocate.v4.u32 {%r3, %r4, %r5, %r6}, [%rd2+16]; add.s32 %r2, %r3, %r6;"),
        4 + 7
    );
    assert_eq!(value("ld.global.v2.u64 {%rd6, %rd7}, [%rd2]; shr.u64 %rd8, %rd7, 32; cvt.u32.u64 %r2, %rd8;"), 3);
    let bytes = |body: &str| {
        Kernel::new(&format!("{body} st.global.u32 [%rd4], %r2;")).input([0x8081_8283, 0]).grid(1, 1).run()[0]
    };
    assert_eq!(bytes("ld.global.u8 %rs1, [%rd2+1]; cvt.u32.u16 %r2, %rs1;"), 0x82);
    assert_eq!(bytes("ld.global.s8 %r2, [%rd2+1];"), 0xffff_ff82);
    assert_eq!(bytes("ld.global.s16 %r2, [%rd2+2];"), 0xffff_8081);
    assert_eq!(bytes("ld.global.u16 %rs1, [%rd2+2]; cvt.u32.u16 %r2, %rs1;"), 0x8081);
}

#[test]
fn cache_policies_change_nothing() {
    let body = "createpolicy.fractional.L2::evict_first.b64 %rd6, 1.0;
        ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%r3, %r4, %r5, %r2}, [%rd2], %rd6;
        prefetch.global.L2 [%rd2];";
    assert_eq!(value(body), 3);
}

#[test]
fn shared_and_local_memory() {
    let body = ".shared .align 16 .b8 buffer[256];
        mov.u32 %r3, buffer; shl.b32 %r4, %r1, 2; add.s32 %r5, %r3, %r4; st.shared.u32 [%r5], %r1;
        bar.sync 0; xor.b32 %r6, %r4, 124; add.s32 %r7, %r3, %r6; ld.shared.u32 %r2, [%r7];";
    assert_eq!(lanes(body), values_of(|lane| 31 - lane));
    let body = ".local .align 16 .b8 depot[16]; .reg .b64 %SP, %SPL;
        mov.u64 %SPL, depot; cvta.local.u64 %SP, %SPL;
        st.local.v2.u32 [%SPL+8], {%r1, %r1}; st.u32 [%SP], %r1; ld.u32 %r3, [%SP+12]; ld.local.u32 %r4, [%SPL];
        add.s32 %r2, %r3, %r4;";
    assert_eq!(lanes(body), values_of(|lane| 2 * lane));
}

#[test]
fn generic_addresses_reach_all_spaces() {
    let body = ".shared .align 4 .b8 buffer[128];
        mov.u32 %r3, buffer; shl.b32 %r4, %r1, 2; add.s32 %r5, %r3, %r4; cvt.u64.u32 %rd6, %r5;
        cvta.shared.u64 %rd7, %rd6; cvta.global.u64 %rd8, %rd5; setp.lt.u32 %p1, %r1, 16;
        add.s32 %r6, %r1, 100; st.u32 [%rd7], %r6;
        selp.b64 %rd9, %rd7, %rd8, %p1; ld.u32 %r2, [%rd9];";
    assert_eq!(lanes(body), values_of(|lane| if lane < 16 { lane + 100 } else { lane }));
}

#[test]
fn dynamic_shared_memory_follows_the_static_part() {
    let mut kernel = Kernel::with_module(
        ".extern .shared .align 16 .b8 dynamic[];",
        ".shared .align 4 .b8 fixed[4]; mov.u32 %r3, fixed; mov.u32 %r4, dynamic;
         st.shared.u32 [fixed], 7; st.shared.u32 [dynamic+4], 8;
         ld.shared.u32 %r5, [%r3]; ld.shared.u32 %r6, [%r4+4]; mad.lo.s32 %r2, %r5, 10, %r6; st.global.u32 [%rd4], %r2;",
    );
    kernel.shared_bytes = 8;
    assert_eq!(kernel.run()[0], 78);
}

#[test]
fn memory_that_was_not_written_is_nan() {
    assert_eq!(value(".shared .align 4 .b8 buffer[128]; ld.shared.u32 %r2, [buffer];"), u32::MAX);
}

#[test]
fn atomics() {
    let total = |op: &str| {
        let mut kernel = Kernel::new(op).grid(4, 64);
        (kernel.threads, kernel.out_words) = (2, 4);
        kernel.run()[0]
    };
    assert_eq!(total("red.global.add.u32 [%rd1], 1;"), 256);
    assert_eq!(total("atom.global.add.u32 %r2, [%rd1], 2;"), 512);
    assert_eq!(total("atom.global.max.s32 %r2, [%rd1], %r1;"), 63);
    assert_eq!(total("red.global.or.b32 [%rd1], %r1;"), 63);
    assert_eq!(total("red.global.add.f32 [%rd1], 0f3F800000;"), 256f32.to_bits());
    assert_eq!(total("red.relaxed.gpu.global.add.u64 [%rd1], 3;"), 768);
    assert_eq!(
        lanes(".shared .align 4 .b8 n[4]; st.shared.u32 [n], 0; atom.shared.add.u32 %r2, [n], 1;"),
        values_of(|lane| lane)
    );
    assert_eq!(value("st.global.u32 [%rd1], 5; atom.global.cas.b32 %r3, [%rd1], 5, 9; ld.global.u32 %r2, [%rd1];"), 9);
    assert_eq!(value("st.global.u32 [%rd1], 5; atom.global.exch.b32 %r2, [%rd1], 9;"), 5);
}

/// Copies a word of each thread, and reads it when `wait` has run.
fn copied(wait: &str, copies: CopyMode) -> Vec<u32> {
    let mut kernel = Kernel::new(&format!(
        ".shared .align 16 .b8 buffer[512];
         mov.u32 %r3, buffer; shl.b32 %r4, %r1, 2; add.s32 %r5, %r3, %r4;
         cp.async.ca.shared.global [%r5], [%rd5], 4; cp.async.commit_group;
         cp.async.ca.shared.global [%r5+128], [%rd5], 4; cp.async.commit_group;
         {wait} ld.shared.u32 %r2, [%r5]; st.global.u32 [%rd4], %r2;"
    ));
    kernel.copies = copies;
    kernel.run()
}

#[test]
fn late_copies_arrive_when_they_are_waited_for() {
    let (all, none) = (values_of(|lane| lane), values_of(|_| u32::MAX));
    for (wait, late) in [
        ("cp.async.wait_group 0;", &all),
        ("cp.async.wait_group 1;", &all),
        ("cp.async.wait_all;", &all),
        ("cp.async.wait_group 2;", &none),
        ("", &none),
    ] {
        assert_eq!(copied(wait, CopyMode::Late), *late, "{wait}");
        assert_eq!(copied(wait, CopyMode::Early), all, "{wait}");
    }
}

#[test]
fn copies_fill_up_with_zeros() {
    for copies in [CopyMode::Late, CopyMode::Early] {
        let mut kernel = Kernel::new(
            ".shared .align 16 .b8 buffer[512];
             mov.u32 %r3, buffer; shl.b32 %r4, %r1, 4; add.s32 %r5, %r3, %r4; setp.lt.u32 %p1, %r1, 16;
             selp.u32 %r6, 16, 0, %p1; selp.b64 %rd6, %rd2, 0, %p1;
             cp.async.cg.shared.global [%r5], [%rd6], 16, %r6; cp.async.wait_all;
             ld.shared.v4.u32 {%r7, %r8, %r9, %r2}, [%r5]; st.global.u32 [%rd4], %r2;",
        );
        kernel.copies = copies;
        assert_eq!(kernel.run(), values_of(|lane| if lane < 16 { 3 } else { 0 }));
    }
}

#[test]
fn what_is_accessed_is_counted() {
    let kernel = Kernel::new(
        ".shared .align 4 .b8 buffer[4096]; mov.u32 %r3, buffer; shl.b32 %r4, %r1, 7; add.s32 %r5, %r3, %r4;
         ld.global.u32 %r2, [%rd5]; ld.global.u32 %r2, [%rd2]; st.shared.u32 [%r5], %r2; st.global.u32 [%rd4], %r2;",
    );
    let (_, counters) = kernel.launch().unwrap();
    assert_eq!((counters.read_bytes, counters.distinct_read_bytes), (256, 128));
    assert_eq!((counters.written_bytes, counters.distinct_written_bytes), (128, 128));
    assert_eq!((counters.shared_wavefronts, counters.shared_conflicts), (32, 31));
    assert_eq!(counters.launches, 1);
}
