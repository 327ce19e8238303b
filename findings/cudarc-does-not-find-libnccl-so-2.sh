#!/usr/bin/env bash
# Guess: cudarc with `dynamic-loading` finds NCCL wherever the dynamic loader does, under the name that NVIDIA's packages install:
# libnccl.so.2, the library's soname.
# So it is: it asks for libnccl.so and for names with CUDA's version in them (as for libcublasLt.so.12), and never for libnccl.so.2.
# NVIDIA's Python package nvidia-nccl-cu12 and Debian's libnccl2 install libnccl.so.2 alone; only development packages
# add libnccl.so. There the first call of an NCCL function panics, though the library is on LD_LIBRARY_PATH.
# What it touches: a program must give its process a folder with a link libnccl.so -> libnccl.so.2, as Peregrine does.
# Seen with cudarc 0.19.10. No GPU, driver or NCCL is needed: libraries without content show which names are looked for.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/src" "$folder/soname" "$folder/plain"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"

[dependencies]
cudarc = { version = "=0.19.10", default-features = false, features = ["std", "driver", "nccl", "dynamic-loading", "cuda-12020"] }

[workspace]
TOML
cat >"$folder/src/main.rs" <<'RUST'
fn main() {
    // SAFETY: the libraries of this script have nothing that runs when they are loaded.
    println!("{}", unsafe { cudarc::nccl::sys::is_culib_present() });
}
RUST
echo 'int nothing_here;' >"$folder/empty.c"
cc -shared -fPIC -Wl,-soname,libnccl.so.2 -o "$folder/soname/libnccl.so.2" "$folder/empty.c"
cp "$folder/soname/libnccl.so.2" "$folder/plain/libnccl.so"
cargo build --quiet --manifest-path "$folder/Cargo.toml"
for case in soname plain; do
    found=$(LD_LIBRARY_PATH="$folder/$case" "$folder/target/debug/finding")
    echo "only $(ls "$folder/$case") on LD_LIBRARY_PATH: present = $found"
    expected=$([[ $case == plain ]] && echo true || echo false)
    [[ $found == "$expected" ]] || { echo "changed: expected $expected"; exit 1; }
done
# The dynamic loader itself finds it under that name.
cat >"$folder/load.c" <<'C'
#include <dlfcn.h>
int main(void) { return dlopen("libnccl.so.2", RTLD_NOW) == 0; }
C
cc -o "$folder/load" "$folder/load.c" -ldl
LD_LIBRARY_PATH="$folder/soname" "$folder/load" && echo "dlopen(\"libnccl.so.2\") finds it"
echo "cudarc 0.19.10: as described"
