//! Tells the tests where they find the stand-in libraries: in a folder that they fill before their first call.

fn main() {
    let folder = std::env::var("OUT_DIR").expect("cargo gives a folder");
    // The loader forgets a folder that is not there when a program starts.
    std::fs::create_dir_all(format!("{folder}/standin")).expect("a folder for the stand-in");
    println!("cargo::rustc-link-arg-tests=-Wl,-rpath,{folder}/standin");
    println!("cargo::rerun-if-changed=build.rs");
}
