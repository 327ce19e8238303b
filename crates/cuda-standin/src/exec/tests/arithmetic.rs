//! Arithmetic, logic, conversions and comparisons.

use super::{Kernel, lanes, value, values_of};
use half::{bf16, f16};

fn f32_of(body: &str) -> f32 {
    f32::from_bits(value(&format!("{body} mov.b32 %r2, %f2;")))
}

/// What a body leaves in `%rd20`.
fn wide_of(body: &str) -> u64 {
    let unpack = "mov.b64 {%r20, %r21}, %rd20; setp.eq.u32 %p1, %r1, 0; selp.b32 %r2, %r20, %r21, %p1;";
    let lanes = lanes(&format!("{body} {unpack}"));
    u64::from(lanes[1]) << 32 | u64::from(lanes[0])
}

#[test]
fn integers() {
    assert_eq!(lanes("add.s32 %r2, %r1, -3;"), values_of(|lane| lane.wrapping_sub(3)));
    assert_eq!(lanes("mad.lo.s32 %r2, %r1, %r1, 7;"), values_of(|lane| lane * lane + 7));
    for (body, expected) in [
        ("mov.u32 %r3, 7; sub.s32 %r2, %r3, 9;", -2i32 as u32),
        ("mov.u32 %r3, -7; div.s32 %r2, %r3, 2;", -3i32 as u32),
        ("mov.u32 %r3, -7; rem.s32 %r2, %r3, 4;", -3i32 as u32),
        ("mov.u32 %r3, -7; div.u32 %r2, %r3, 2;", (-7i32 as u32) / 2),
        ("mov.u32 %r3, 7; rem.u32 %r2, %r3, 4;", 3),
        ("mov.u32 %r3, -7; min.s32 %r2, %r3, 2;", -7i32 as u32),
        ("mov.u32 %r3, -7; min.u32 %r2, %r3, 2;", 2),
        ("mov.u32 %r3, -7; max.s32 %r2, %r3, 2;", 2),
        ("mov.u32 %r3, 0x80000001; mul.hi.u32 %r2, %r3, 4;", 2),
        ("mov.u32 %r3, 0x80000001; mul.hi.s32 %r2, %r3, 4;", -2i32 as u32),
        ("mov.u32 %r3, -5; abs.s32 %r2, %r3;", 5),
        ("mov.u32 %r3, -5; neg.s32 %r2, %r3;", 5),
        ("mov.u16 %rs1, -2; mov.u16 %rs2, 3; mul.wide.s16 %r2, %rs1, %rs2;", -6i32 as u32),
        ("mov.u16 %rs1, 65535; add.s16 %rs2, %rs1, 2; cvt.u32.u16 %r2, %rs2;", 1),
        ("mov.u16 %rs1, -8; shr.s16 %rs2, %rs1, 1; cvt.s32.s16 %r2, %rs2;", -4i32 as u32),
        ("mov.u16 %rs1, -8; min.s16 %rs2, %rs1, 1; cvt.s32.s16 %r2, %rs2;", -8i32 as u32),
    ] {
        assert_eq!(value(body), expected, "{body}");
    }
}

#[test]
fn bits() {
    for (body, expected) in [
        ("mov.u32 %r3, 12; and.b32 %r2, %r3, 10;", 8),
        ("mov.u32 %r3, 12; or.b32 %r2, %r3, 10;", 14),
        ("mov.u32 %r3, 12; xor.b32 %r2, %r3, 10;", 6),
        ("mov.u32 %r3, 12; not.b32 %r2, %r3;", !12),
        ("mov.u32 %r3, 1; shl.b32 %r2, %r3, 31;", 1 << 31),
        ("mov.u32 %r3, 1; shl.b32 %r2, %r3, 32;", 0),
        ("mov.u32 %r3, -8; shr.s32 %r2, %r3, 40;", u32::MAX),
        ("mov.u32 %r3, -8; shr.u32 %r2, %r3, 28;", 15),
        ("mov.u32 %r3, 0xf0; popc.b32 %r2, %r3;", 4),
        ("mov.u32 %r3, 0xf0; clz.b32 %r2, %r3;", 24),
        ("mov.u32 %r3, 1; brev.b32 %r2, %r3;", 1 << 31),
        ("mov.u32 %r3, 0xf0; bfind.u32 %r2, %r3;", 7),
        ("mov.u32 %r3, 0x12345678; bfe.u32 %r2, %r3, 8, 8;", 0x56),
        ("mov.u32 %r3, 0x12348678; bfe.s32 %r2, %r3, 8, 8;", 0xffff_ff86),
        ("mov.u32 %r3, 0xab; mov.u32 %r4, 0x11111111; bfi.b32 %r2, %r3, %r4, 8, 8;", 0x1111_ab11),
        ("mov.u32 %r3, 0x33221100; mov.u32 %r4, 0x77665544; prmt.b32 %r2, %r3, %r4, 0x7531;", 0x7755_3311),
        ("mov.u32 %r3, 0x80; mov.u32 %r4, 0; prmt.b32 %r2, %r3, %r4, 0x0008;", 0x8080_80ff),
        ("mov.u32 %r3, 12; mov.u32 %r4, 10; mov.u32 %r5, 6; lop3.b32 %r2, %r3, %r4, %r5, 0x96;", 0),
        ("mov.u32 %r3, 1; mov.u32 %r4, 2; shf.l.wrap.b32 %r2, %r3, %r4, 33;", 4),
        ("mov.u32 %r3, 1; mov.u32 %r4, 2; shf.r.clamp.b32 %r2, %r3, %r4, 33;", 2),
    ] {
        assert_eq!(value(body), expected, "{body}");
    }
}

#[test]
fn sixty_four_bits() {
    for (body, expected) in [
        ("mov.u64 %rd6, 0x100000000; add.s64 %rd20, %rd6, -1;", 0xffff_ffff),
        ("mov.u32 %r3, -2; mul.wide.s32 %rd20, %r3, 3;", -6i64 as u64),
        ("mov.u32 %r3, -2; mul.wide.u32 %rd20, %r3, 3;", 0xffff_fffe * 3),
        ("mov.u32 %r3, 5; mov.u64 %rd6, 7; mad.wide.u32 %rd20, %r3, %r3, %rd6;", 32),
        ("mov.u64 %rd6, 3; mad.lo.s64 %rd20, %rd6, %rd6, %rd6;", 12),
        ("mov.u64 %rd6, -16; shr.s64 %rd20, %rd6, 2;", -4i64 as u64),
        ("mov.u64 %rd6, 1; shl.b64 %rd20, %rd6, 63;", 1 << 63),
        ("mov.u64 %rd6, 1; shl.b64 %rd20, %rd6, 64;", 0),
        ("mov.u32 %r3, -1; cvt.s64.s32 %rd20, %r3;", u64::MAX),
        ("mov.u32 %r3, -1; cvt.u64.u32 %rd20, %r3;", 0xffff_ffff),
        ("mov.u64 %rd6, 100; mov.u64 %rd7, 7; div.u64 %rd8, %rd6, %rd7; rem.s64 %rd20, %rd6, %rd7;", 2),
        ("mov.u64 %rd6, -1; mul.hi.u64 %rd20, %rd6, 2;", 1),
        ("mov.u64 %rd6, 0xf0f; bfe.u64 %rd20, %rd6, 8, 4;", 15),
        ("mov.u64 %rd6, 0xff; not.b64 %rd20, %rd6;", !0xff),
        ("mov.f64 %fd1, 0d3FF8000000000000; add.f64 %fd2, %fd1, %fd1; mov.b64 %rd20, %fd2;", 3f64.to_bits()),
    ] {
        assert_eq!(wide_of(body), expected, "{body}");
    }
    assert_eq!(value("mov.u64 %rd6, 0xf000; popc.b64 %r3, %rd6; clz.b64 %r4, %rd6; add.s32 %r2, %r3, %r4;"), 4 + 48);
    assert_eq!(value("mov.u64 %rd6, 0x200000001; cvt.u32.u64 %r2, %rd6;"), 1);
}

#[test]
fn floats() {
    let two_and_three = "mov.f32 %f3, 0f40000000; mov.f32 %f4, 0f40400000;";
    for (op, expected) in [
        ("add.f32 %f2, %f3, %f4;", 5.0),
        ("sub.rn.f32 %f2, %f3, %f4;", -1.0),
        ("mul.f32 %f2, %f3, %f4;", 6.0),
        ("div.rn.f32 %f2, %f3, %f4;", 2.0 / 3.0),
        ("div.approx.f32 %f2, %f3, %f4;", 2.0 / 3.0),
        ("fma.rn.f32 %f2, %f3, %f4, %f3;", 8.0),
        ("min.f32 %f2, %f3, %f4;", 2.0),
        ("max.f32 %f2, %f3, %f4;", 3.0),
        ("neg.f32 %f2, %f3;", -2.0),
        ("sqrt.rn.f32 %f2, %f3;", 2f32.sqrt()),
        ("rsqrt.approx.f32 %f2, %f3;", 1.0 / 2f32.sqrt()),
        ("rcp.rn.f32 %f2, %f3;", 0.5),
        ("ex2.approx.f32 %f2, %f4;", 8.0),
        ("lg2.approx.f32 %f2, %f3;", 1.0),
        ("tanh.approx.f32 %f2, %f3;", 2f32.tanh()),
        ("add.sat.f32 %f2, %f3, %f4;", 1.0),
        ("mov.f32 %f5, 0f7FC00000; max.f32 %f2, %f5, %f4;", 3.0),
    ] {
        assert_eq!(f32_of(&format!("{two_and_three} {op}")), expected, "{op}");
    }
    assert!(f32_of("mov.f32 %f5, 0f7FC00000; mov.f32 %f4, 0f40000000; max.NaN.f32 %f2, %f5, %f4;").is_nan());
    assert_eq!(f32_of("mov.f32 %f3, 0f00000001; add.ftz.f32 %f2, %f3, %f3;"), 0.0);
    // One rounding, where a product and a sum would have two.
    let (a, c) = (1.0 + f32::EPSILON, -1.0);
    let body = format!(
        "mov.f32 %f3, 0f{:08X}; mov.f32 %f4, 0f{:08X}; fma.rn.f32 %f2, %f3, %f3, %f4;",
        a.to_bits(),
        f32::to_bits(c)
    );
    assert_eq!(f32_of(&body), a.mul_add(a, c));
}

#[test]
fn conversions() {
    let of = |value: f32, convert: &str| super::value(&format!("mov.f32 %f3, 0f{:08X}; {convert}", value.to_bits()));
    for (value, convert, expected) in [
        (-2.5, "cvt.rni.s32.f32 %r2, %f3;", -2i32 as u32),
        (-2.5, "cvt.rzi.s32.f32 %r2, %f3;", -2i32 as u32),
        (-2.5, "cvt.rmi.s32.f32 %r2, %f3;", -3i32 as u32),
        (2.5, "cvt.rpi.s32.f32 %r2, %f3;", 3),
        (3e10, "cvt.rzi.s32.f32 %r2, %f3;", i32::MAX as u32),
        (-1.0, "cvt.rzi.u32.f32 %r2, %f3;", 0),
        (f32::NAN, "cvt.rzi.s32.f32 %r2, %f3;", 0),
        (2.5, "cvt.rni.f32.f32 %f2, %f3; mov.b32 %r2, %f2;", 2f32.to_bits()),
        (2.5, "cvt.sat.f32.f32 %f2, %f3; mov.b32 %r2, %f2;", 1f32.to_bits()),
        (1.003, "cvt.rn.bf16.f32 %rs1, %f3; cvt.u32.u16 %r2, %rs1;", bf16::from_f32(1.003).to_bits().into()),
        (1.003, "cvt.rn.f16.f32 %rs1, %f3; cvt.u32.u16 %r2, %rs1;", f16::from_f32(1.003).to_bits().into()),
        (1.25, "cvt.rn.bf16x2.f32 %r2, %f3, 0f3F800000;", 0x3fa0_3f80),
        (1.25, "cvt.rn.f16.f32 %rs1, %f3; cvt.f32.f16 %f2, %rs1; mov.b32 %r2, %f2;", 1.25f32.to_bits()),
        (1.5, "cvt.f64.f32 %fd1, %f3; cvt.rn.f32.f64 %f2, %fd1; mov.b32 %r2, %f2;", 1.5f32.to_bits()),
    ] {
        assert_eq!(of(value, convert), expected, "{value} {convert}");
    }
    for (body, expected) in [
        ("mov.u32 %r3, -3; cvt.rn.f32.s32 %f2, %r3; mov.b32 %r2, %f2;", (-3f32).to_bits()),
        ("mov.u32 %r3, -1; cvt.rn.f32.u32 %f2, %r3; mov.b32 %r2, %f2;", (u32::MAX as f32).to_bits()),
        ("mov.u32 %r3, 0x1ff; cvt.u8.u32 %rs1, %r3; cvt.u32.u16 %r2, %rs1;", 255),
        ("mov.u32 %r3, 0x80; cvt.s8.s32 %rs1, %r3; cvt.s32.s16 %r2, %rs1;", -128i32 as u32),
        ("mov.u32 %r3, 0x80; cvt.s32.s8 %r2, %r3;", -128i32 as u32),
        ("mov.u64 %rd6, 5; cvt.rn.f32.u64 %f2, %rd6; mov.b32 %r2, %f2;", 5f32.to_bits()),
    ] {
        assert_eq!(value(body), expected, "{body}");
    }
}

#[test]
fn halves() {
    let pair = |a: f32, b: f32| u32::from(bf16::from_f32(a).to_bits()) << 16 | u32::from(bf16::from_f32(b).to_bits());
    let body = format!("mov.b32 %r3, {}; mov.b32 %r4, {};", pair(1.5, -2.0), pair(3.0, 0.25));
    for (op, expected) in [
        ("fma.rn.bf16x2 %r2, %r3, %r4, %r3;", pair(6.0, -2.5)),
        ("max.bf16x2 %r2, %r3, %r4;", pair(3.0, 0.25)),
        ("min.bf16x2 %r2, %r3, %r4;", pair(1.5, -2.0)),
        ("neg.bf16x2 %r2, %r3;", pair(-1.5, 2.0)),
        ("abs.bf16x2 %r2, %r3;", pair(1.5, 2.0)),
    ] {
        assert_eq!(value(&format!("{body} {op}")), expected, "{op}");
    }
    let half = |v: f32| u32::from(f16::from_f32(v).to_bits());
    let body = format!("mov.b16 %rs1, {}; mov.b16 %rs2, {};", half(1.5), half(2.25));
    assert_eq!(value(&format!("{body} add.f16 %rs3, %rs1, %rs2; cvt.u32.u16 %r2, %rs3;")) & 0xffff, half(3.75));
    assert_eq!(value(&format!("{body} setp.lt.f16 %p1, %rs1, %rs2; selp.u32 %r2, 1, 0, %p1;")), 1);
}

#[test]
fn comparisons_and_predicates() {
    let holds = |set: &str| super::value(&format!("{set} selp.b32 %r2, 1, 0, %p1;")) == 1;
    assert!(holds("mov.u32 %r3, -1; setp.lt.s32 %p1, %r3, 0;"));
    assert!(!holds("mov.u32 %r3, -1; setp.lt.u32 %p1, %r3, 0;"));
    assert!(holds("mov.u64 %rd6, -1; setp.lt.s64 %p1, %rd6, 0;"));
    assert!(!holds("mov.f32 %f3, 0f7FC00000; setp.eq.f32 %p1, %f3, %f3;"));
    assert!(!holds("mov.f32 %f3, 0f7FC00000; setp.ne.f32 %p1, %f3, %f3;"));
    assert!(holds("mov.f32 %f3, 0f7FC00000; setp.neu.f32 %p1, %f3, %f3;"));
    assert!(holds("mov.f32 %f3, 0f7FC00000; setp.nan.f32 %p1, %f3, %f3;"));
    assert!(!holds("mov.f32 %f3, 0f7FC00000; mov.f32 %f4, 0f00000000; setp.ge.f32 %p1, %f3, %f4;"));
    assert!(holds("setp.eq.s32 %p2, %r1, 0; setp.lt.and.s32 %p1, %r1, 5, %p2;"));
    assert!(!holds("setp.eq.s32 %p2, %r1, 0; setp.lt.and.s32 %p1, %r1, 5, !%p2;"));
    assert!(holds("setp.ne.s32 %p2|%p1, %r1, 0;"));
    assert!(holds("setp.ne.s32 %p2, %r1, 0; not.pred %p1, %p2;"));
    assert!(holds("setp.ne.s32 %p2, %r1, 0; setp.eq.s32 %p3, %r1, 0; or.pred %p1, %p2, %p3;"));
    assert_eq!(
        lanes("setp.lt.u32 %p1, %r1, 4; mov.u32 %r2, 9; @%p1 mov.u32 %r2, 1; @!%p1 add.s32 %r2, %r2, 1;"),
        values_of(|lane| if lane < 4 { 1 } else { 10 })
    );
}

#[test]
fn vectors_are_packed_and_unpacked() {
    assert_eq!(value("mov.u16 %rs1, 1; mov.u16 %rs2, 2; mov.b32 %r2, {%rs1, %rs2};"), 0x2_0001);
    assert_eq!(value("mov.u32 %r3, 0x20001; mov.b32 {%rs1, %rs2}, %r3; cvt.u32.u16 %r2, %rs2;"), 2);
    assert_eq!(value("mov.u64 %rd6, 0x200000001; mov.b64 {%r3, %r4}, %rd6; sub.s32 %r2, %r4, %r3;"), 1);
    assert_eq!(value("mov.u32 %r3, 7; mov.u32 %r4, 9; mov.b64 %rd6, {%r3, %r4}; mov.b64 {_, %r2}, %rd6;"), 9);
}

#[test]
fn special_registers() {
    assert_eq!(lanes("mov.u32 %r2, %laneid;"), values_of(|lane| lane));
    assert_eq!(lanes("mov.u32 %r2, %lanemask_lt;"), values_of(|lane| (1 << lane) - 1));
    let kernel = Kernel::new(
        "mov.u32 %r3, %ctaid.x; mov.u32 %r4, %nctaid.x; mad.lo.u32 %r2, %r3, 100, %r4; st.global.u32 [%rd4], %r2;",
    );
    assert_eq!(kernel.grid(3, 1).run(), [3, 103, 203]);
}

#[test]
fn what_is_not_known_is_an_error_with_its_text() {
    for text in ["frobnicate.u32 %r2, %r1", "add.rz.f32 %f1, %f2, %f3", "mov.u32 %r2, %nobody", "mul.s32 %r1, %r1, %r1"]
    {
        let error = Kernel::new(&format!("{text};")).lower().unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}
