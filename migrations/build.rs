//! Rebuilds when a step is added: the macro reads a folder that the compiler does not watch.

fn main() {
    println!("cargo:rerun-if-changed=sql");
}
